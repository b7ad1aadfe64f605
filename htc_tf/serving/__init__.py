"""Serving: the SavedModel, which takes encoded images, and the clients that ask it."""
