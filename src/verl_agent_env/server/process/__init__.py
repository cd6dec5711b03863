"""Processes of a node: the pool of workers, what ended one of them, and each one's memory and event loop."""
