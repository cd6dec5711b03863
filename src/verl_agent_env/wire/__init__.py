"""What travels over HTTP: the schemas of requests and answers, and their JSON."""
