"""The cluster in memory, with the behaviour of Redis: for one process, for tests and for the simulation."""
