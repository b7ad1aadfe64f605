"""Small checkpoints for tests: saving, restoring and damaging them."""

import tensorflow as tf

from htc_tf.checkpoint import Checkpoints

DATA, INDEX = "data-00000-of-00001", "index"


class Model(tf.Module):
    def __init__(self, value=0.0, count=100):
        super().__init__()
        self.weight = tf.Variable(tf.fill([count], float(value)), name="weight")


def save(run, *steps, keep=3):
    """Saves checkpoints whose weights have the number of the step as value."""
    for step in steps:
        Checkpoints(run, Model(step), keep=keep).save(step, seed=0)


def restored(run):
    """Returns the number of the checkpoint that is restored."""
    model = Model()
    path = Checkpoints(run, model).restore_latest()
    number = int(model.weight[0])
    assert path == str(run.checkpoints / f"ckpt-{number}")
    return number


def names(run):
    return sorted(path.name for path in run.checkpoints.iterdir())


def flip(content):
    middle = len(content) // 2
    return content[:middle] + bytes([content[middle] ^ 8]) + content[middle + 1 :]


DAMAGES = {
    "missing": lambda content: None,
    "empty": lambda content: b"",
    "cut": lambda content: content[: len(content) // 2],
    "last byte": lambda content: content[:-1],
    "flipped": flip,
    "zeros": lambda content: bytes(len(content)),
}


def damage(path, kind):
    content = DAMAGES[kind](path.read_bytes())
    path.unlink() if content is None else path.write_bytes(content)
