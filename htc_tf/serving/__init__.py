"""Serving: the exported SavedModel, which takes encoded images, and its REST and gRPC clients."""
