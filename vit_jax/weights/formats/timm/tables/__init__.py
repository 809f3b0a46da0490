"""Tables of timm's architectures and of their arguments; written by tests/weights/timm."""
