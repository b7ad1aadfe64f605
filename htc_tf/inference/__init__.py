"""Inference: images and videos in, detections in each image's own pixels out."""
