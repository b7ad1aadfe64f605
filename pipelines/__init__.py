"""Data preparation with Apache Beam: COCO annotations and images to TFRecords.

The package is `pipelines` in a checkout and htc_tf.pipelines where htc_tf is installed, so its own imports are
relative.
"""

# Reports missing packages in one line, as htc_tf's commands do.
import htc_tf  # noqa: F401
