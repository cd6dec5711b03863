"""The environments and what they are made of. Knows nothing of HTTP, Redis or servers."""
