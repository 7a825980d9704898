"""How good a model is: predictions, metrics, and a report that says what was measured."""
