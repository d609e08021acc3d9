"""Figures of runs with their errors, side by side, and the page that tells of them."""
