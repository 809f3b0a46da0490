"""TensorFlow, for input only: quiet, and without the accelerators, which are JAX's."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what fails is raised and named by us

import tensorflow as tf

tf.config.set_visible_devices([], "GPU")
tf.config.set_visible_devices([], "TPU")

__all__ = ["tf"]
