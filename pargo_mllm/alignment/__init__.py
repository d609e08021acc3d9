"""What a projector keeps of a picture, which words its tokens speak, and where they come from."""
