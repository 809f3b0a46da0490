"""Imports TensorFlow for reading data: without log output, and without accelerators."""

import os

# Without this, oneDNN prints a line on processors with AVX-512.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # failures are raised as exceptions

import tensorflow as tf

tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

__all__ = ["tf"]
