"""The network and what its outputs mean. Start at htc.py: it is the walk from image to detections."""
