"""A run of a recipe: what it takes in, its stages, the features it keeps and the memory it needs."""
