"""Kept episodes in a directory."""
