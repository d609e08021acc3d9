"""Benchmarks: this package's attentions against every other way to compute them. Run ``python bench/run.py``."""
