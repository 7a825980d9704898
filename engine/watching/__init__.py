"""Labels live streams: cameras, URLs, pipes and growing files."""
