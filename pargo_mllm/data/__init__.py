"""Data sources, conversations as token ids, and the datasets that feed the model."""
