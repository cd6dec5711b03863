"""Countdown: combine numbers into a target. The pure core: expressions, puzzles, the solver and the scores."""
