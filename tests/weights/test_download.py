"""Download of public weights from a local server: whatever happens, the cache holds a whole file or none."""

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from htc_tf.errors import UserError
from htc_tf.weights import download
from htc_tf.weights.public_weights import PublicWeights
from tests.weights.download_server import CONTENT, serve

ROOT = Path(__file__).resolve().parents[2]
DIGEST = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def server():
    with serve() as server:
        yield server


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """The folder of downloaded files, not made yet."""
    monkeypatch.setenv("HTC_TF_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("HTC_TF_OFFLINE")
    return tmp_path / "cache" / "weights"


@pytest.fixture
def weights(server):
    """A function: weights("missing", "good", digest=...) is a file with the addresses of these behaviors."""

    def make(*behaviors, digest=DIGEST[:8]):
        addresses = tuple(f"http://127.0.0.1:{server.server_port}/{behavior}" for behavior in behaviors)
        return PublicWeights("name", "mmdet", "file.pth", digest, (), addresses)

    return make


def names(folder):
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("digest", [DIGEST[:8], DIGEST, None, f"sha384:{hashlib.sha384(CONTENT).hexdigest()[:32]}"])
@pytest.mark.parametrize("behavior", ["good", "redirect", "unsized", "slow"])
def test_a_file_is_fetched_once(weights, server, cache, monkeypatch, capsys, behavior, digest):
    monkeypatch.setattr(download, "TIMEOUT", (5, 0.5))
    assert download.fetch(weights(behavior, digest=digest)) == cache / "file.pth"
    assert (cache / "file.pth").read_bytes() == CONTENT and names(cache) == ["file.pth"]
    assert (cache / "file.pth").stat().st_mode & 0o777 == 0o644
    assert "note" not in capsys.readouterr().err
    asked = list(server.asked)
    monkeypatch.setenv("HTC_TF_OFFLINE", "1")
    assert download.fetch(weights(behavior, digest=digest)) == cache / "file.pth" and server.asked == asked


@pytest.mark.parametrize(
    ("behavior", "problem"),
    [
        ("missing", "HTTP 404 Not Found"),
        ("other", f"its file has the SHA256 {hashlib.sha256(b'other').hexdigest()} instead of {DIGEST[:8]}…"),
        ("page", "its file is a web page"),
        ("empty", "its file is empty"),
        ("cut", "the connection was cut"),
        ("silent", "no answer in time"),
        ("loop", "no connection (TooManyRedirects)"),
        ("huge", "more than 4,000,000 bytes"),
        ("endless", "more than 4,000,000 bytes"),
    ],
)
def test_the_next_address_is_tried(weights, server, cache, monkeypatch, capsys, behavior, problem):
    monkeypatch.setattr(download, "TIMEOUT", (5, 0.3))
    monkeypatch.setattr(download, "MAX_BYTES", 4_000_000)
    assert download.fetch(weights(behavior, "good")).read_bytes() == CONTENT
    notes = [line for line in capsys.readouterr().err.splitlines() if line.startswith("note: ")]
    assert len(notes) == 1 and f"/{behavior} failed: {problem}" in notes[0]
    assert names(cache) == ["file.pth"] and server.asked[0] == f"/{behavior}" and server.asked[-1] == "/good"


def test_a_file_without_a_published_hash_is_at_least_whole_and_no_page(weights, cache):
    with pytest.raises(UserError, match=r"cannot be downloaded: get it from http\S+/cut or .* and put it into"):
        download.fetch(weights("cut", "page", "empty", digest=None))
    assert names(cache) == []


def test_where_no_address_answers_one_line_says_what_to_do(weights, server, cache, capsys):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    wanted = weights("missing", "cut")
    wanted = wanted._replace(addresses=(*wanted.addresses, f"http://127.0.0.1:{port}/x", f"https://127.0.0.1:{port}"))
    with pytest.raises(UserError) as error:
        download.fetch(wanted)
    assert str(error.value) == (
        f"file.pth cannot be downloaded: get it (SHA256 {DIGEST[:8]}…) from {' or '.join(wanted.addresses)} and "
        f"put it into {cache}"
    )
    err = capsys.readouterr().err
    assert err.count("note: ") == 4 and err.count("no connection (Connection refused)") == 2
    assert names(cache) == []


def test_a_certificate_that_nobody_signed_is_not_accepted(weights, server, cache, capsys, monkeypatch):
    """The server speaks no TLS, which requests reports like a bad certificate."""
    wanted = weights("good")
    secure = wanted.addresses[0].replace("http:", "https:")
    assert download.fetch(wanted._replace(addresses=(secure, *wanted.addresses))).read_bytes() == CONTENT
    assert f"{secure} failed: its certificate is not accepted" in capsys.readouterr().err


def test_offline_the_network_is_left_alone(weights, server, cache, monkeypatch):
    monkeypatch.setenv("HTC_TF_OFFLINE", "1")
    with pytest.raises(UserError, match=r"file\.pth is not in the cache, and HTC_TF_OFFLINE is set: get it"):
        download.fetch(weights("good"))
    assert not server.asked and not cache.exists()


def test_a_file_put_there_by_hand(weights, server, cache):
    cache.mkdir(parents=True)
    (cache / "file.pth").write_bytes(CONTENT)
    assert download.fetch(weights("missing")) == cache / "file.pth"
    (cache / "file.pth").write_bytes(b"other")
    with pytest.raises(UserError) as error:
        download.fetch(weights("good"))
    path, found = cache / "file.pth", hashlib.sha256(b"other").hexdigest()
    assert str(error.value) == f"{path} has the SHA256 {found} instead of {DIGEST[:8]}…: delete it or replace it"
    assert path.read_bytes() == b"other" and not server.asked


def test_a_cache_that_cannot_be_written(weights, cache, tmp_path, monkeypatch):
    """Root may write anywhere but below a file."""
    (tmp_path / "cache").write_text("")
    with pytest.raises(UserError, match=r"cache/weights cannot be written \(.+\): free space .* HTC_TF_CACHE"):
        download.fetch(weights("good"))
    # A file that is there needs no permission to write.
    (tmp_path / "cache").unlink()
    cache.mkdir(parents=True)
    (cache / "file.pth").write_bytes(CONTENT)
    monkeypatch.setattr(download, "writing", None)
    assert download.fetch(weights("good")) == cache / "file.pth"


def start(script, cache):
    """A Python process with this script."""
    environment = {**os.environ, "HTC_TF_CACHE": str(cache.parent), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, stderr=subprocess.PIPE, text=True)


SCRIPT = """
from htc_tf.weights.download import fetch
from htc_tf.weights.public_weights import PublicWeights
from tests.weights.download_server import CONTENT, serve
fetch(PublicWeights("name", "mmdet", "file.pth", {digest!r}, (), {addresses!r}))
"""


def test_a_full_disk(weights, cache):
    """Stands for it: a limit on the size of the process's files."""
    wanted = weights("good")
    limit = "import resource, signal\nsignal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    limit += "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))"
    process = start(limit + SCRIPT.format(digest=wanted.digest, addresses=wanted.addresses), cache)
    _, err = process.communicate(timeout=60)
    assert f"{cache} cannot be written (File too large): free space on its disk" in err and names(cache) == []


def test_two_processes_at_once(weights, cache):
    wanted = weights("slow")
    script = SCRIPT.format(digest=wanted.digest, addresses=wanted.addresses)
    both = [start(script, cache) for _ in range(2)]
    for process in both:
        _, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
    assert names(cache) == ["file.pth"] and (cache / "file.pth").read_bytes() == CONTENT


def test_a_killed_download_leaves_no_half_file(weights, server, cache):
    wanted = weights("silent")
    process = start(SCRIPT.format(digest=wanted.digest, addresses=wanted.addresses), cache)
    deadline = time.monotonic() + 60
    while not names(cache) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    (left,) = names(cache)
    assert left.startswith("tmp")
    # It may be another process's; an old one is nobody's.
    assert download.fetch(weights("good")).read_bytes() == CONTENT and names(cache) == ["file.pth", left]
    (cache / "file.pth").unlink()
    os.utime(cache / left, (0, 0))
    assert download.fetch(weights("good")).read_bytes() == CONTENT and names(cache) == ["file.pth"]


@pytest.mark.parametrize(
    ("variables", "folder"),
    [
        ({"HTC_TF_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/a/weights"),
        ({"HTC_TF_CACHE": "", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/b/htc_tf/weights"),
        ({"HTC_TF_CACHE": "", "XDG_CACHE_HOME": "", "HOME": "/c"}, "/c/.cache/htc_tf/weights"),
        ({"HTC_TF_CACHE": "~/a", "HOME": "/c"}, "/c/a/weights"),  # no shell has expanded it
        ({"HTC_TF_CACHE": "", "XDG_CACHE_HOME": "~", "HOME": "/c"}, "/c/htc_tf/weights"),
        ({"HTC_TF_CACHE": "a"}, "a/weights"),
    ],
)
def test_the_folder_of_the_cache(monkeypatch, variables, folder):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert download.cache_folder("weights") == Path(folder)


def test_without_a_home_folder(monkeypatch):
    """As in a container with a user id that no name belongs to."""
    monkeypatch.setattr("os.path.expanduser", lambda path: path)
    for name in ("HTC_TF_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(UserError, match="this user has no home folder for the cache: set HTC_TF_CACHE to a folder"):
        download.cache_folder("weights")
    monkeypatch.setenv("HTC_TF_CACHE", "/a")
    assert download.cache_folder("weights") == Path("/a/weights")


def test_missing_certificates_are_no_trouble_of_the_disk(weights, cache, monkeypatch, capsys):
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", "/nowhere")
    secure = weights("good")
    secure = secure._replace(addresses=(secure.addresses[0].replace("http:", "https:"),))
    with pytest.raises(UserError, match="cannot be downloaded"):
        download.fetch(secure)
    assert "failed: Could not find a suitable TLS CA certificate bundle" in capsys.readouterr().err


def test_a_proxy_that_does_not_answer_is_named(weights, cache, monkeypatch, capsys):
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    with pytest.raises(UserError, match="cannot be downloaded"):
        download.fetch(weights("good"))
    assert "failed: no connection to the proxy (Connection refused)" in capsys.readouterr().err
