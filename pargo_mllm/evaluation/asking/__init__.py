"""Questions put to a model, from a benchmark to its answers."""
