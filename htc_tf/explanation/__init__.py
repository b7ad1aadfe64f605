"""Explanation: one image followed through the model and drawn on one page."""
