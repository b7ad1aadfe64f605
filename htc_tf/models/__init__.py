"""The network, its targets and its losses. Start with `models.htc`."""
