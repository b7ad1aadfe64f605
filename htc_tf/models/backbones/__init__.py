"""Backbones: images to the feature maps C2 to C5."""
