"""Fixtures: checkpoint files as PyTorch and Paddle write them, and a run and a file for a training to start from."""

from tests.checkpoint_writers import write  # noqa: F401
from tests.training.adopting import detector_file, trained, trained_once  # noqa: F401
