"""The language model's side: families and their chat templates, InternLM2, LoRA, and the miniature's tokenizer."""
