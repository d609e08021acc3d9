"""Held-out accuracy and the baselines beside it."""
