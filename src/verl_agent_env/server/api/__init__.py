"""The calls of the API: one module for each group of routes, and the table of all routes."""
