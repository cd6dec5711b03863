"""Episodes that survive their server, for any trainer: what a row stands for, options, the check beforehand."""
