"""Stages of `engine bench`: the loader, the model, and the pipeline from files to labels."""
