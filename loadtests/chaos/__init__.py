"""Break a cluster under load in every way that it promises to survive."""
