"""Directories of transformers."""
