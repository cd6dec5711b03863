"""VeRL: the data set that verl reads and the agent loop that plays the episodes; neither serves another trainer."""
