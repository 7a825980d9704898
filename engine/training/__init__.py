"""Training: recipes, losses, optimizers, the training loop, checkpoints and run folders."""
