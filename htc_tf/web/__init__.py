"""Web pages of a local server: the demo of a model, and the dataset browser."""
