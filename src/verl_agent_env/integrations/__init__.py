"""Bridges to trainers; each stands on the client library and on the environments, none on the server."""
