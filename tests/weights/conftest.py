"""The fixture `write`: checkpoint files as PyTorch and Paddle write them."""

from tests.checkpoint_writers import write  # noqa: F401
