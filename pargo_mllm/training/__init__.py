"""The stages of training, their settings, and the cache of finished work."""
