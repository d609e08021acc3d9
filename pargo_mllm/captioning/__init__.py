"""Captions: asked for, and filtered by how well they fit their pictures."""
