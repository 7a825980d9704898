"""Evaluation: predictions, metrics, and a report with the protocol of the measurement."""
