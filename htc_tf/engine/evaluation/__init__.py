"""Evaluation: detections become COCO results, and results become figures, tables and charts."""
