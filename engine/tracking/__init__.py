"""Sends the settings, metrics and results of runs to TensorBoard, MLflow and Weights & Biases."""
