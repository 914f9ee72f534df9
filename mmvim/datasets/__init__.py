"""Data sets and transforms of a data pipeline."""
