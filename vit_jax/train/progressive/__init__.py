"""Progressive resizing: smaller images for the first parts of a run."""
