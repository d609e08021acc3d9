"""The miniature: a small encoder and a small language model, what they learn from, and the cache of what they learned."""
