"""What a problem must move and compute, and what the kernels do."""
