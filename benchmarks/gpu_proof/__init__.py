"""Everything that needs a GPU, in steps of minutes; see __main__.py."""
