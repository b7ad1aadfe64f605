"""Download of public weights into a cache: once, checked by their hash, from the first address that gives the file.

A file appears under its name only when it is complete. Of two processes at once, each downloads to a temporary file of
its own; the second to finish replaces the first one's file, which is equal.
"""

import contextlib
import logging
import os
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pooch
import requests

from htc_tf.errors import UserError, printable
from htc_tf.progress import progress_bar
from htc_tf.request_errors import describe
from htc_tf.weights.other_files import HEAD, check_kind
from htc_tf.weights.public_weights import PublicWeights

MAX_BYTES = 4 * 2**30  # several times the largest file of the table
CHUNK = 2**20  # bytes
TIMEOUT = (15, 60)  # seconds until a connection, and between two parts of an answer
TEMPORARY = "tmp"  # names begin with it, pooch's too
ABANDONED = 3600  # seconds without a change after which a temporary file belongs to no process


def cache_folder(name: str) -> Path:
    """Returns the folder `name` of the cache: in HTC_TF_CACHE, or in htc_tf in the user's cache folder."""
    folder = os.environ.get("HTC_TF_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "htc_tf")
    try:
        return Path(folder).expanduser() / name
    except RuntimeError as error:
        raise UserError("this user has no home folder for the cache: set HTC_TF_CACHE to a folder") from error


def fetch(weights: PublicWeights) -> Path:
    """Returns the Path of a file in the cache, after downloading it if it is not there.

    Args:
        weights: A `PublicWeights`.
    Raises:
        UserError: The file in the cache has another hash, the cache cannot be written, HTC_TF_OFFLINE is set, or no
            address gives the file.
    """
    path = cache_folder("weights") / weights.file
    if path.exists():
        if found := other_hash(path, weights.digest):
            raise UserError(f"{path} has the {spell(found, weights.digest)}: delete it or replace it")
        return path
    checked = f" ({spell(None, weights.digest)})" if weights.digest else ""
    by_hand = f"get it{checked} from {' or '.join(weights.addresses)} and put it into {path.parent}"
    if os.environ.get("HTC_TF_OFFLINE", "0") not in ("", "0"):
        raise UserError(f"{weights.file} is not in the cache, and HTC_TF_OFFLINE is set: {by_hand}")
    with writing(path.parent):
        for address in weights.addresses:
            problem = download(address, path, weights.digest)
            if problem is None:
                return path
            print(printable(f"note: {address} failed: {problem}"), file=sys.stderr)
    raise UserError(f"{weights.file} cannot be downloaded: {by_hand}")


def download(address: str, path: Path, digest: str | None) -> str | None:
    """Downloads a file; returns None, or why the address did not give it.

    Raises:
        OSError: The file cannot be written.
    """
    pooch.get_logger().setLevel(logging.WARNING)
    try:
        pooch.retrieve(address, None, path.name, path.parent, downloader=lambda url, file, _: save(url, file, digest))
    except requests.RequestException as error:
        return describe(error)
    except (ValueError, UserError) as error:
        return str(error)
    except OSError as error:
        if error.errno is not None:
            raise
        return str(error)  # requests found no certificates where REQUESTS_CA_BUNDLE names them
    return None


def save(address: str, target: str | os.PathLike, digest: str | None) -> None:
    """Writes the answer of an address to a file.

    Raises:
        ValueError: The answer is incomplete, too large, or has another hash.
        UserError: It is a web page or anything else that is no checkpoint.
        requests.RequestException: There is no answer.
        OSError: The file cannot be written.
    """
    # A compressed answer would not have the stated length.
    options: dict[str, Any] = {"stream": True, "timeout": TIMEOUT, "headers": {"Accept-Encoding": "identity"}}
    with requests.get(address, **options) as response, open(target, "wb") as file:
        response.raise_for_status()
        total = int(response.headers.get("Content-Length", 0))
        check_size(total)
        with progress_bar(total=total or None, unit="B", unit_scale=True, desc=Path(address).name) as bar:
            for chunk in response.iter_content(CHUNK):
                bar.update(file.write(chunk))
                check_size(bar.n)
        if bar.n < total:
            raise ValueError("the connection was cut")
    with open(target, "rb") as file:
        check_kind(file.read(HEAD), "its file")
    if found := other_hash(target, digest):
        raise ValueError(f"its file has the {spell(found, digest)}")
    os.chmod(target, 0o644)  # users may share a cache, and a temporary file is for its owner alone


def check_size(size: int) -> None:
    if size > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES:,} bytes")


def other_hash(path: str | os.PathLike, digest: str | None) -> str | None:
    """Returns a file's hash if it does not begin with the published digits, else None."""
    if digest is None:
        return None
    algorithm, _, digits = digest.rpartition(":")
    try:
        found = pooch.file_hash(path, algorithm or "sha256")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    return None if found.startswith(digits) else found


def spell(found: str | None, digest: str | None) -> str:
    """Returns a published hash in words, after a file's own if that differs."""
    algorithm, _, digits = (digest or "").rpartition(":")
    return f"{(algorithm or 'sha256').upper()} {f'{found} instead of ' if found else ''}{digits}…"


@contextlib.contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Makes a folder of the cache, removes what killed processes left there, and explains a failure to write."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for path in folder.glob(f"{TEMPORARY}*"):
            with contextlib.suppress(OSError):
                if time.time() - path.stat().st_mtime > ABANDONED:
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}): free space on its disk, or set HTC_TF_CACHE to "
            "another folder"
        ) from error
