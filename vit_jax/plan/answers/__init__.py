"""Answers to a planner's questions: input, checkpoints, failures, cost, other slices, scaling."""
