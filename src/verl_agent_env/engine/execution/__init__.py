"""Running the code of environments: inline, in threads or as coroutines; within which time and which budget."""
