"""The attentions on a CPU in plain C, compiled on the machine at the first call that computes."""
