"""What the tests of the kernels are made of."""
