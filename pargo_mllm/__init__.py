"""ParGo: an encoder, the partial-global projector, and a language model."""
