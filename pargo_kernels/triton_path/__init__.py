"""Both attentions as Triton kernels. Imported only when a kernel is wanted."""
