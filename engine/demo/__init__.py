"""The demo: every command in turn on synthetic videos, and the page with its results."""
