"""One file a command: each parses its options, calls, and prints. Heavy imports stay inside."""
