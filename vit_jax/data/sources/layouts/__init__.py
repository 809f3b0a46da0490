"""Image folders in which the class is not the folder's name."""
