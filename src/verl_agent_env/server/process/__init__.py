"""The process itself: its memory, and what holds up its event loop."""
