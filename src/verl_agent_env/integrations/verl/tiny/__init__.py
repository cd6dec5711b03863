"""Models so small that they learn to play on a CPU in minutes: tokenizer, warm start, learning curve.

They show that the whole way from curated data to a learning curve works, and tests train them; nothing that trains a
real model needs this package.
"""
