"""Compiles a run into an artifact and checks its parity with the run on held-out clips."""
