"""Hybrid Task Cascade (arXiv:1901.07518) for instance segmentation on TensorFlow.

Importing the package alone loads no TensorFlow: the commands must answer `--help` at once, and a
Beam worker needs only `htc_tf.data.schema`.
"""

__version__ = "0.1.0"
