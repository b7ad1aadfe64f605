"""What `python -m htc_tf.benchmark` measures: one file for each mode, and what they share."""
