"""Web pages of a local server: a model's demo and a dataset browser."""
