"""The parts of the GPU gate, and the small programs that are steps of it."""
