"""Plans: the memory, network traffic and time of a run, predicted before it starts."""
