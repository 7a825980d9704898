"""The web page for one video at a time: what it shows, and what it may open."""
