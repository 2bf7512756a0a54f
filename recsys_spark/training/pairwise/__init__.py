"""The pair models: the program of the tasks, and its mini-batches."""
