"""Directories of open_clip, and OpenAI's own files of CLIP, which have the same names."""
