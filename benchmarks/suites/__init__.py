"""One file a theme: what is measured, under which conditions, and where the result goes."""
