"""Wrappers around the weights in a training checkpoint: which state dict to take, and the averaged or the last weights.

Averages (EMA) of the weights lie in a file in one of four ways:
- mmengine's EMAHook stores the average as "state_dict" and the last weights as "ema_state_dict", since it exchanges the
  two when it saves (mmengine/hooks/ema_hook.py, before_save_checkpoint);
- mmcv's EMAHook stores a buffer "ema_a_b" beside each parameter "a.b", and exchanges the two before it saves if it has
  priority over saving, as its documentation and the configurations of mmdetection 2 have it;
- others store the last weights as "model" or "state_dict" and the average as "model_ema" or "state_dict_ema";
- some publish the average alone.
"""

import os
import re
from typing import Any

from htc_tf.errors import UserError
from htc_tf.weights.pickled_arrays import Inert

LAST, AVERAGED = ("state_dict", "model"), ("ema_state_dict", "model_ema", "state_dict_ema")
EXCHANGED = ("state_dict", "ema_state_dict")  # mmengine's averaged and last weights
WRAPPED = re.compile(r"^((module|_orig_mod)\.)+")  # prefix of PyTorch's parallel, averaged and compiled modules
AVERAGE = "ema_"  # prefix of mmcv's averages
# Beside the weights: counters of an average, and Paddle's table of the tensors' inner names.
BESIDE = {"steps", "n_averaged", "StructuredToParameterName@@"}
MAX_NAME = 300  # characters
MMCV_NOTE = (
    "the file holds averages of mmcv: the plain names are read as the averages and ema_... as the last weights, "
    "as mmdetection's EMAHook saves them; with a priority below that of saving they are the other way round"
)


def unwrap(content: Any, path: str | os.PathLike, ema: bool | None = None) -> tuple[dict[str, Any], list[str]]:
    """Returns {name: stored array} without the wrappers around it, and a list of notes for the user.

    Args:
        content: The object in a file, from `files.read`.
        path: Path of the file, for messages.
        ema: bool, True for the averaged weights, False for the last ones, or None for those that the file's own
            framework loads: mmengine's and mmcv's averages, the last weights of others.
    Raises:
        UserError: The content is no dict of named weights, or lacks the requested kind.
    """
    named, averaged = choose(content, ema)
    if isinstance(named, Inert):
        raise UserError(
            f"{path} holds an object of {named.name} instead of named weights: save only its weights with its own "
            "framework: torch.save(model.state_dict(), NEW)"
        )
    if not isinstance(named, dict) or not named.keys() - BESIDE or not all(map(is_name, named)):
        raise UserError(f"{path} holds no named weights, but a {type(named).__name__}")
    named = {WRAPPED.sub("", name): value for name, value in named.items() if name not in BESIDE}
    plain = {name: value for name, value in named.items() if not name.startswith(AVERAGE)}
    notes = []
    if plain and len(plain) < len(named):
        averaged, notes = True, [MMCV_NOTE]
        if ema is False:
            averaged = False
            plain = {name: named.get(AVERAGE + name.replace(".", "_"), value) for name, value in plain.items()}
    elif not plain:
        averaged = True
        plain = {name.removeprefix(AVERAGE): value for name, value in named.items()}
    if ema is not None and averaged is not ema:
        held = "the averaged (EMA) weights alone: leave out --ema no"
        raise UserError(f"{path} holds {held if averaged else 'no averaged (EMA) weights: leave out --ema yes'}")
    return plain, notes


def choose(content: Any, ema: bool | None) -> tuple[Any, bool]:
    """Returns the state dict in a training checkpoint, or the content itself, and True if it is an average."""
    found = content if isinstance(content, dict) else {}
    if all(isinstance(found.get(key), dict) for key in EXCHANGED):
        return found[EXCHANGED[ema is False]], ema is not False
    last, averaged = (
        next((found[key] for key in keys if isinstance(found.get(key), dict)), None) for keys in (LAST, AVERAGED)
    )
    if averaged is not None and (ema or last is None):
        return averaged, True
    if last is None and isinstance(found.get("model"), Inert):
        return found["model"], False  # a whole network as an object of its own class
    return (content if last is None else last), False


def is_name(key: object) -> bool:
    """Returns True if a key can be the name of a weight and can be printed in a message."""
    return isinstance(key, str) and key.isprintable() and 0 < len(key) <= MAX_NAME


def class_names(content: Any) -> list[str] | None:
    """Returns the names of the classes that a checkpoint of mmdetection 2 or 3 states, or None."""
    meta = content.get("meta") if isinstance(content, dict) else None
    meta = meta if isinstance(meta, dict) else {}
    described = meta.get("dataset_meta")
    described = described if isinstance(described, dict) else {}
    for names in (described.get("classes"), described.get("CLASSES"), meta.get("CLASSES")):
        if isinstance(names, list | tuple) and names and all(map(is_name, names)):
            return list(names)
    return None
