"""LoRA adapters: low-rank updates of a model's kernels, trained here or by peft."""
