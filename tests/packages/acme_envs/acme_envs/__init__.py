"""Environments of another party."""
