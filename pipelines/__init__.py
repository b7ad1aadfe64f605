"""Apache Beam jobs and their neighbours: COCO in, TFRecords out."""
