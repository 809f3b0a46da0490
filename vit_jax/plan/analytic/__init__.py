"""The memory, traffic and time of a training step by formulas: no compiler, any device."""
