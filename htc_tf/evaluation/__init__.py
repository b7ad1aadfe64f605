"""Evaluation: records are detected, results are compared with the ground truth and reported."""
