"""Turns video files into clips on a device. Independent of the task, models and compilers."""
