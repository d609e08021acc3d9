"""The demonstration: a miniature of the whole model trained through both stages on two CPU cores."""
