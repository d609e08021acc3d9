"""What enters a contest: the attentions, pictures of different sizes, the projector, a training step."""
