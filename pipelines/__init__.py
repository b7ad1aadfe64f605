"""Apache Beam jobs and their neighbours: COCO in, TFRecords out."""

# Reports a Python without the packages in one line, as htc_tf's commands do.
import htc_tf  # noqa: F401
