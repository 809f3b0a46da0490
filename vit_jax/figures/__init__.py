"""Figures: what a trained model has learnt, drawn."""
