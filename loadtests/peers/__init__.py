"""Servers of other projects around the same environment, and the clients that measure them."""
