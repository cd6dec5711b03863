"""A worker among others: which of them owns an environment, and calls between them."""
