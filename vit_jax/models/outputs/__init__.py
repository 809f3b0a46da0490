"""What models give besides logits: features of layers, maps for dense tasks, attention rollout."""
