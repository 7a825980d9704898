"""Training: what a run leaves on disk, and (to come) the loop that makes it."""
