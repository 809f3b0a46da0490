"""TensorFlow, for input only: quiet, and without the accelerators, which are JAX's."""

import os
import tempfile

# oneDNN announces itself on processors with AVX-512; reading data has no use for it.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what fails is raised and named by us
# Keras, which TensorFlow loads, would make its folder in one called "~" if there is no home.
if os.path.expanduser("~") == "~":
    os.environ.setdefault("KERAS_HOME", os.path.join(tempfile.gettempdir(), ".keras"))

import tensorflow as tf

tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

__all__ = ["tf"]
