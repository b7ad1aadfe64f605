"""Apache Beam jobs and their neighbours: COCO in, TFRecords out."""

# A Python without the packages is told in one line, as for htc_tf's commands.
import htc_tf  # noqa: F401
