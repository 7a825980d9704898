"""The demo: runs every command on synthetic videos and writes a page with the results."""
