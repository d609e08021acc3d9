"""Corpora that lie on disk, a module for each format and for its index."""
