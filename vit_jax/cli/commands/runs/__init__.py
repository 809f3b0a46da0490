"""Commands about training runs: planning, training, and tables of results."""
