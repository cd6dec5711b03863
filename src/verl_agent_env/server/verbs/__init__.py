"""The verbs: what can be done with environments, each as one value that answers alone, in batches, and in parts of batches."""
