"""Imports TensorFlow for reading data: without log output, and without accelerators."""

import os
import tempfile

# Without this, oneDNN prints a line on processors with AVX-512.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
# What fails is raised and named by us. "1" is what JAX sets when it is imported.
if os.environ.get("TF_CPP_MIN_LOG_LEVEL", "1") == "1":
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
# Keras, which TensorFlow loads, would make its folder in one called "~" if there is no home.
if os.path.expanduser("~") == "~":
    os.environ.setdefault("KERAS_HOME", os.path.join(tempfile.gettempdir(), ".keras"))

import tensorflow as tf

tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

__all__ = ["tf"]
