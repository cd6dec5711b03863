"""Integrations with trainers, based only on the client library and the environments: data sets, episodes, a folder per trainer."""
