"""What commands say about a config: its options, their origins, the run that it would be."""
