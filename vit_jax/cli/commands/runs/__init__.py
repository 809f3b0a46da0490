"""Commands about training runs: before, during, and tables of many."""
