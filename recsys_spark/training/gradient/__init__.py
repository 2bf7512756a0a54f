"""Training by gradients: what the softmax and the pair models have in common."""
