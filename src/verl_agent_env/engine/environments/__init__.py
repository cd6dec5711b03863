"""The live environments of a host: the state of each, and the table of all of them."""
