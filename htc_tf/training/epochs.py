"""Epochs: steps as passes over the training records, for logs and messages."""

import math


def epoch_of(step, epoch_steps):
    """Returns the number of epochs in that many steps, a float with four decimals."""
    return round(step / epoch_steps, 4)


def describe_epoch(step, epoch_steps):
    """Returns "epoch 2 (step 150)"."""
    return f"epoch {round(step / epoch_steps, 2):g} (step {step})"


def describe_steps(steps, epoch_steps):
    """Returns "150 steps (2 epochs)"."""
    epochs = round(steps / epoch_steps, 2)
    return f"{steps} step{'s' * (steps != 1)} ({epochs:g} epoch{'s' * (epochs != 1)})"


def describe_interval(every, steps, epoch_steps):
    """Returns "every 75 steps (1 epoch), 12 in all" for what happens at an interval and after the last step."""
    return f"every {describe_steps(every, epoch_steps)}, {math.ceil(steps / every)} in all"
