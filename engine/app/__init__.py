"""The web page of `engine app`, which labels one video at a time."""
