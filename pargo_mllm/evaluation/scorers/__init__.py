"""What a text is worth against the right answer: one file a kind of answer, shared by the benchmarks."""
