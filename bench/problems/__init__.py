"""What is measured: attention, the projector, a training step, and the suites that group them."""
