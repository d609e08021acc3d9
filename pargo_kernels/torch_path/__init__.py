"""Both attentions in plain torch: exact, structured, on any device."""
