"""Examples and questions, the rooms they come from, and the one that feeds them to the model."""
