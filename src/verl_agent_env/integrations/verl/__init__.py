"""VeRL: curation of data sets, the data set that verl reads, and the agent loop that plays the episodes.

``curation`` needs pyarrow and nothing of verl; ``rollout`` is what verl loads.
"""
