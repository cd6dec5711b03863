"""nginx in front of a cluster: its configuration, and the process that keeps it up to date."""
