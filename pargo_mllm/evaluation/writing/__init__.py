"""Predictions in the formats in which benchmarks take them."""
