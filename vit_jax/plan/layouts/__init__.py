"""The search for the fastest layout of a run that fits into memory."""
