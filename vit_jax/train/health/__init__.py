"""Health of a run: bad numbers, spikes, hangs, preemption, no progress."""
