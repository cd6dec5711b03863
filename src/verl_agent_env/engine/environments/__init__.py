"""The live environments of a host: where each stands, and the table of all of them."""
