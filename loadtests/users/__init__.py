"""The users of the load tests; ``loadtests/locustfile.py`` shows them to locust."""
