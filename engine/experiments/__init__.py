"""Experiments: published ones to be run again, and studies of what matters on one's own data."""
