"""Episodes on a server for any trainer: rows, options, recovery of lost environments, a check before the training."""
