"""Sizes of images in the headers of their files, where the library that reads them is too late."""
