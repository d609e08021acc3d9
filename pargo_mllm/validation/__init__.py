"""Training data, checked before anything is trained: what is wrong, where, how much it matters; and what the data are."""
