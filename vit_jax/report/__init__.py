"""The page about a run, its model card, and the directory that the Hugging Face hub holds."""
