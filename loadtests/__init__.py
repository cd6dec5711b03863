"""Benchmarks and load tests, as commands."""
