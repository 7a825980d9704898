"""Measurements behind the README and the docs: one script a theme, one result file each."""
