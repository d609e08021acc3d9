"""The other ways to compute the same attention."""
