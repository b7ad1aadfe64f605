"""Backbones: normalized images to the feature maps C2, C3, C4 and C5."""
