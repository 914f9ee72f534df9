"""Measurements of models, and figures of data, training and predictions."""
