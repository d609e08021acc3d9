"""From examples to micro-batches: chat templates, conversations as token ids, packing, collation and the order of training."""
