"""Distillation in a run: the teacher's weights, and what they have to fit."""
