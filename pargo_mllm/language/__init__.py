"""The language model's side: the miniature's tokenizer, and LoRA."""
