"""From the clips of a dataset, or the windows of long videos, to batches of tensors."""
