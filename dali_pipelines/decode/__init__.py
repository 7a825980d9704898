"""Which pictures of a video file or frame folder are wanted, and their pixels."""
