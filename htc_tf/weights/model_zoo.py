"""Public weights by name: the lookup of a name that a flag gives, and of its file in the cache."""

import difflib
from pathlib import Path

from htc_tf.errors import UserError
from htc_tf.weights.other_files import check_path
from htc_tf.weights.public_weights import WEIGHTS, PublicWeights


def nearest(name: str) -> list[str]:
    """Returns up to three names of the table that begin with a name or resemble it."""
    return [known for known in WEIGHTS if known.startswith(name)][:3] or difflib.get_close_matches(
        name, WEIGHTS, n=3, cutoff=0.6
    )


def find(text: str, flag: str) -> PublicWeights | None:
    """Returns the PublicWeights that a flag names, or None if it names a file.

    Args:
        text: str, the path of a file, or a name of `WEIGHTS`. An existing file wins over a name.
        flag: str, the flag, for messages.
    Raises:
        UserError: There is neither such a file nor such a name.
    """
    path, remedy = Path(text), "give a checkpoint file, or a name of docs/weights.md"
    if not text:
        raise UserError(f"{flag} is empty: {remedy}")
    if path.exists() or text in WEIGHTS:
        return None if path.exists() else WEIGHTS[text]
    check_path(path)
    if "/" in text or path.suffix:
        raise UserError(f"{flag} {text} is missing: {remedy}")
    names = nearest(text)
    advice = f"the nearest are {', '.join(names)}" if names else "docs/weights.md lists the names"
    raise UserError(f"{flag} {text} is missing, and no public weights have this name; {advice}")


def locate(text: str, flag: str) -> tuple[Path, str | None]:
    """Returns the checkpoint file that a flag names, after downloading it if it is not in the cache.

    Args:
        text, flag: Arguments of `find`.
    Returns:
        (Path, source): `source` is that of the name, or None for a file.
    Raises:
        UserError: There is neither such a file nor such a name, or no address of the name answers.
    """
    named = find(text, flag)
    if named is None:
        return Path(text), None
    from htc_tf.weights.download import fetch

    return fetch(named), named.source
