"""Writes of many environments that go to the store together, and the answers that wait for them."""
