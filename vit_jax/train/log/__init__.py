"""Reports of a run: metrics, time, summary."""
