"""The softmax model: the program of the tasks, its mini-batches, and vectors of users from histories."""
