"""Video files to clips on a device. Knows nothing of the task, the models or the compilers."""
