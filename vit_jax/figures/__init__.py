"""Figures of a trained model: filters, position embeddings, attention."""
