"""Bridges to trainers, on the client library and the environments alone: data sets, episodes, and a folder per trainer."""
