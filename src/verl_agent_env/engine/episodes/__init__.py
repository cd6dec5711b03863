"""Keeps episodes that are over, finds them again, and sums them up by run."""
