"""Reading weights that others published."""
