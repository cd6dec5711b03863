"""The host: carries out calls on the environments of one worker, one by one and in batches, and closes idle ones."""
