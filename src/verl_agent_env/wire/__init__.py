"""The HTTP formats: schemas of requests and responses, their JSON, and the records of the event log."""
