"""The fixture `write`, which writes checkpoint files of PyTorch and Paddle."""

from tests.checkpoint_writers import write  # noqa: F401
