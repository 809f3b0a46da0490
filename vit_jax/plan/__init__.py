"""What models cost and what they look at: FLOPs, plans, attention."""
