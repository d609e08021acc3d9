"""What the tests of the benchmarks are made of."""
