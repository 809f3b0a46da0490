"""What a classifier says about each example of a data set, and what follows from it."""
