"""HTTP: connections, who may ask, bodies, the dispatcher with its fast path, and what is told of all of it."""
