"""Download of public weights into a cache: once, checked by their SHA-256, from the first address that answers.

A file appears under its name only when it is complete. Two processes at once each download to a file of their own, and
the last to finish replaces the other's, which is equal.
"""

import contextlib
import hashlib
import logging
import os
import sys
import time
from pathlib import Path

from htc_tf.errors import UserError
from htc_tf.progress import progress_bar

MAX_BYTES = 4 * 2**30  # the largest file of the table has 0.6 GB
CHUNK = 2**20  # bytes
TIMEOUT = (15, 60)  # seconds until a connection, and between two parts of an answer
ABANDONED = 3600  # seconds after which an unfinished download that nobody writes to is removed


def cache_folder():
    """Returns the folder of downloaded and converted files: HTC_TF_CACHE, or htc_tf in the user's cache folder."""
    return Path(os.environ.get("HTC_TF_CACHE") or Path(user_cache(), "htc_tf"))


def user_cache():
    return os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"


def is_offline():
    """Returns True if HTC_TF_OFFLINE forbids the network."""
    return os.environ.get("HTC_TF_OFFLINE", "0") not in ("", "0")


def fetch(weights):
    """Returns the Path of a file in the cache, after downloading it if it is not there.

    Args:
        weights: A `model_zoo.PublicWeights`.
    Raises:
        UserError: The file in the cache has another hash, the cache cannot be written, HTC_TF_OFFLINE is set, or no
            address gives the file.
    """
    folder = cache_folder() / "weights"
    path = folder / weights.file
    if path.exists():
        check_hash(path, weights.sha256)
        return path
    if is_offline():
        raise UserError(f"{weights.file} is not in the cache, and HTC_TF_OFFLINE is set: {by_hand(weights, folder)}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        for address in weights.addresses:
            if problem := download(address, path, weights.sha256):
                print(f"note: {address}: {problem}", file=sys.stderr)
            else:
                return path
    except OSError as error:
        raise UserError(
            f"{folder} cannot be written ({error.strerror or error}): free space there, or set HTC_TF_CACHE to another "
            "folder"
        ) from error
    raise UserError(f"{weights.file} cannot be downloaded: {by_hand(weights, folder)}")


def by_hand(weights, folder):
    """Returns how to get a file without this module."""
    checked = f" (SHA-256 {weights.sha256}…)" if weights.sha256 else ""
    return f"get it{checked} from {' or '.join(weights.addresses)} and put it into {folder}"


def check_hash(path, sha256):
    """Raises a UserError if a file's SHA-256 does not begin with `sha256`, if any."""
    if sha256 is None:
        return
    try:
        digest = file_hash(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    if not digest.startswith(sha256):
        raise UserError(
            f"{path} has the SHA-256 {digest[:16]}… instead of {sha256}…: delete it, or put the right one there"
        )


def file_hash(path):
    """Returns a file's SHA-256 in hexadecimal digits."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def download(address, path, sha256):
    """Downloads a file; returns None, or why the address did not give it.

    Raises:
        OSError: The disk is full, or the folder cannot be written.
    """
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.WARNING)
    try:
        pooch.retrieve(address, None, path.name, path.parent, downloader=lambda url, out, _: save(url, out, sha256))
    except requests.HTTPError as error:
        return f"HTTP {error.response.status_code} {error.response.reason}"
    except requests.exceptions.SSLError:
        return "its certificate is not accepted"
    except requests.Timeout:
        return "no answer in time"
    except requests.exceptions.ChunkedEncodingError:
        return "the connection was cut"
    except requests.RequestException as error:
        return f"no connection ({type(error).__name__})"
    except ValueError as error:
        return str(error)
    return None


def save(address, target, sha256):
    """Writes what an address answers to the file `target`.

    Raises:
        ValueError: The answer is incomplete, too large, or has another hash.
        requests.RequestException: There is no such answer.
    """
    import requests

    # Some servers compress what they send, and then state the length of that.
    options = {"stream": True, "timeout": TIMEOUT, "headers": {"Accept-Encoding": "identity"}}
    with requests.get(address, **options) as response, open(target, "wb") as file:
        response.raise_for_status()
        total = int(response.headers.get("Content-Length", 0))
        with progress_bar(total=total or None, unit="B", unit_scale=True, desc=Path(address).name) as bar:
            for chunk in response.iter_content(CHUNK):
                bar.update(file.write(chunk))
                if max(bar.n, total) > MAX_BYTES:
                    raise ValueError(f"more than {MAX_BYTES:,} bytes")
        if total and bar.n != total:
            raise ValueError("the connection was cut")
    digest = file_hash(target)
    if sha256 and not digest.startswith(sha256):
        raise ValueError(f"a file with the SHA-256 {digest[:16]}… instead of {sha256}…")
    os.chmod(target, 0o644)  # a temporary file is for its owner only, a cache may be shared


def remove_abandoned(folder):
    """Removes the temporary files of downloads that were killed."""
    for path in folder.glob("tmp*"):
        with contextlib.suppress(OSError):
            if time.time() - path.stat().st_mtime > ABANDONED:
                path.unlink()
