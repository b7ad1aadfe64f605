"""Data preparation with Apache Beam: COCO annotations and images to TFRecords."""

# Reports missing packages in one line, as htc_tf's commands do.
import htc_tf  # noqa: F401
