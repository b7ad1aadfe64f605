"""Evaluation: detection in records, COCO metrics, error analysis and reports."""
