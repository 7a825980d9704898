"""What `engine bench` measures: the loader, the model, and the whole way from files to labels."""
