"""Pictures: what the tokens look at, accuracies and losses. They need matplotlib: pip install 'pargo[demo]'."""
