"""Pure functions on tensors: no variables, no configuration, no input or output."""
