"""The language model's side: families, InternLM2, LoRA, and the miniature's tokenizer."""
