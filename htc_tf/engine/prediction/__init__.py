"""Prediction on pictures and videos: read, detect, draw."""
