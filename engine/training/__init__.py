"""Training: settings, the loop, and what a run leaves on disk."""
