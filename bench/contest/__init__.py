"""Verify, then time, then write a row: one engine for whatever is measured."""
