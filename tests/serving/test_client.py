"""The client by REST, by gRPC and in this process: the same answers, and every failure is one line."""

import io
import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco_mask

from htc_tf import client
from htc_tf.errors import UserError
from htc_tf.inference.exported import LocalClient
from htc_tf.inference.exported_outputs import read_pixels
from htc_tf.inference.inputs import Unreadable
from htc_tf.serving import decode
from htc_tf.serving.grpc_client import GrpcClient
from htc_tf.serving.rest_client import RestClient
from tests.data.encoded_images import blank_png

ROOT = Path(__file__).resolve().parents[2]
FAILING = b"fail"  # the toy model of conftest.py fails on an image that begins with it


@pytest.fixture(params=["rest", "grpc", "export"])
def place(request, fake_server, toy_export):
    """The flags for one of the three places where the toy model is."""
    return {
        "rest": ["--server", fake_server.rest],
        "grpc": ["--grpc", "--server", fake_server.grpc],
        "export": ["--export", toy_export],
    }[request.param]


def test_the_outputs_are_the_same_everywhere(fake_server, toy_export, images):
    encoded = [(images / name).read_bytes() for name in ("a.png", "text.png", "b.png")]
    wanted = LocalClient(toy_export).predict(encoded)
    assert wanted["masks_28"].shape == (3, 3, 28, 28)
    for server in (RestClient(fake_server.rest, "htc", None, 9), GrpcClient(fake_server.grpc, "htc", 3, 9)):
        found = server.predict(encoded)
        assert set(found) == set(wanted)
        for name, array in wanted.items():
            assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
            assert found[name].tolist() == array.tolist(), name


def test_the_command(call, place, images, tmp_path):
    output = tmp_path / "new" / "out"
    done = call(client, *place, "--input", images, "--output", output, "--batch", 2, "--threshold", 0.3)
    assert done.status == 0
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["a.png", "b.png"]
    assert (lines[0]["height"], lines[0]["width"]) == (40, 60)
    assert lines[0]["detections"] == [
        {"class": "person", "score": 0.9, "box": [0, 0, 20, 30]},
        {"class": "Käse", "score": 0.3333, "box": [10, 15, 30, 45]},
    ]
    assert f"left out {images / 'text.png'}: neither PNG nor JPEG" in done.err.splitlines()
    assert sorted(path.name for path in output.iterdir()) == ["a.png", "b.png", "detections.jsonl"]
    written = [json.loads(line) for line in (output / "detections.jsonl").read_text().splitlines()]
    mask = coco_mask.decode(written[0]["detections"][0].pop("segmentation"))
    ys, xs = np.nonzero(mask)
    assert mask.shape == (40, 60) and (ys.min(), ys.max(), xs.min(), xs.max()) == (0, 19, 15, 29)
    assert written[0]["detections"][0] == lines[0]["detections"][0]
    drawn, plain = (np.asarray(Image.open(folder / "a.png").resize((60, 40))) for folder in (output, images))
    changed = (drawn != plain).any(axis=-1)
    assert changed[:20, 16:29].all() and not changed[34:].any() and not changed[:, 50:].any()


def test_threshold(call, place, images):
    done = call(client, *place, "--input", images / "a.png", "--threshold", 0.5)
    assert [found["class"] for found in json.loads(done.out)["detections"]] == ["person"]


def test_requests_are_batches(call, fake_server, images):
    files = [images / name for name in ("a.png", "b.png", "text.png")]
    del fake_server.requests[:]
    call(client, "--server", fake_server.rest, "--batch", 2, "--input", *files)
    call(client, "--server", fake_server.grpc, "--grpc", "--batch", 2, "--version", 3, "--input", *files)
    rest, grpc = fake_server.requests[:2], fake_server.requests[2:]
    assert [len(body["instances"]) for body in rest] == [2, 1]
    assert [body.inputs[0].value.tensor_shape.dim[0].size for body in grpc] == [2, 1]
    assert [body.model_spec.version.value for body in grpc] == [3, 3]


@pytest.mark.parametrize("grpc", [[], ["--grpc"]])
@pytest.mark.parametrize(
    ("mistake", "named"),
    [
        (["--model", "cascade"], "no model 'cascade' is ready there (Servable not found for request: Latest(cascade)"),
        (["--version", "4"], "name another with --model or --version, or wait until it is loaded"),
    ],
)
def test_a_model_that_is_not_loaded(call, fake_server, images, grpc, mistake, named):
    address = fake_server.grpc if grpc else fake_server.rest
    line = refusal(call(client, "--server", address, *grpc, *mistake, "--input", images / "a.png"))
    assert address in line and named in line
    if not grpc and "--version" in mistake:
        assert "version 3 is AVAILABLE" in line


def test_a_failure_leaves_its_neighbors_alone(call, place, images, tmp_path):
    """bad.png makes the model fail: the images of its request are sent again one by one, and the file is named."""
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes((images / name).read_bytes())
    (tmp_path / "bad.png").write_bytes(FAILING + b"anything")
    done = call(client, *place, "--input", tmp_path, "--batch", 4)
    assert done.status == 0
    assert [Path(json.loads(line)["file"]).name for line in done.out.splitlines()] == ["a.png", "b.png"]
    (named,) = [line for line in done.err.splitlines() if line.startswith("left out ")]
    assert named.startswith(f"left out {tmp_path / 'bad.png'}: ") and "indices[0] = 9 is not in [0, 1)" in named
    assert "Graph execution" not in done.err and "{{" not in done.err


def test_a_file_that_cannot_be_read(call, place, images, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO(f"{images}/gone.png\n{images}/a.png\n"))
    done = call(client, *place, "--input", "-", "--batch", 2)
    assert done.status == 0 and json.loads(done.out)["file"] == f"{images}/a.png"
    assert f"left out {images}/gone.png: No such file or directory" in done.err.splitlines()


def test_videos_and_urls_are_not_sent(call, toy_export, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("https://here/a.png\nhttp://here/a.png\nFTP://here/v.mp4\nv.mp4\n"))
    done = call(client, "--export", toy_export, "--input", "-")
    assert "for no image" in refusal(done)
    assert [line for line in done.err.splitlines() if line.startswith("left out ")] == [
        "left out https://here/a.png: a URL: python -m htc_tf.predict reads it",
        "left out http://here/a.png: a URL: download it and give the file",
        "left out ftp://here/v.mp4: a URL: download it and give the file",
        "left out v.mp4: a video: python -m htc_tf.predict reads it",
    ]


@pytest.mark.parametrize("grpc", [[], ["--grpc"]])
def test_no_server(call, images, grpc):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    line = refusal(call(client, "--server", address, *grpc, "--input", images / "a.png"))
    assert address in line and "server answers (" in line and "--server" in line


@pytest.mark.parametrize("grpc", [[], ["--grpc"]])
def test_a_slow_server(call, fake_server, tmp_path, grpc):
    (tmp_path / "0.png").mkdir()
    (tmp_path / "a.png").write_bytes(b"slow")
    address = fake_server.grpc if grpc else fake_server.rest
    done = call(client, "--server", address, *grpc, "--timeout", 0.2, "--input", tmp_path)
    assert f"left out {tmp_path / '0.png'}: is a folder" in done.err  # although the command fails later
    line = refusal(done)
    assert f"{tmp_path / 'a.png'}: " in line and "no answer within 0.2 seconds" in line and "--timeout" in line


def test_another_server(call, fake_server, impostor, images):
    line = refusal(call(client, "--server", impostor, "--input", images / "a.png"))
    assert "not an answer of htc_tf.export's models" in line and "welcome" in line
    line = refusal(call(client, "--server", fake_server.grpc, "--input", images / "a.png"))
    assert "no REST interface" in line and "--grpc" in line
    line = refusal(call(client, "--server", fake_server.rest, "--grpc", "--input", images / "a.png"))
    assert "no gRPC server answers" in line


@pytest.mark.parametrize("address", ["http://[::1", "a b", "localhost:port", "nothing://there"])
def test_an_invalid_address(call, images, address):
    line = refusal(call(client, "--server", address, "--input", images / "a.png"))
    assert address in line and "--server" in line


@pytest.mark.parametrize("address", ["file://{}/page", "FILE://{}/page", "ftp://127.0.0.1:9", "data://x"])
@pytest.mark.parametrize("grpc", [[], ["--grpc"]])
def test_an_address_of_something_else(call, images, tmp_path, address, grpc):
    """A file beside the address of the model would be read as a server's answer."""
    address = address.format(tmp_path)
    (tmp_path / "page" / "v1" / "models").mkdir(parents=True)
    (tmp_path / "page" / "v1" / "models" / "htc:predict").write_text('{"predictions": [{"sizes": [1, 2]}]}')
    line = refusal(call(client, "--server", address, *grpc, "--input", images / "a.png"))
    assert line.startswith(f"error: --server {address} is not an address (") and "): give host" in line
    assert ("https://" in line) != bool(grpc)


@pytest.mark.parametrize(
    "address", ["http://", "https:///x", "/etc/x", "localhost/prefix", "localhost?x", "http://here/#x"]
)
def test_an_address_of_which_a_part_would_be_lost(address):
    with pytest.raises(UserError, match=rf"^--server {re.escape(address)} is not an address \("):
        RestClient(address, "htc", None, 9)


@pytest.mark.parametrize(
    ("address", "url"),
    [
        ("here", "http://here:8501"),
        ("here:99", "http://here:99"),
        ("[::1]", "http://[::1]:8501"),
        ("HTTPS://here/prefix/", "https://here/prefix"),
        ("http://here:99", "http://here:99"),
    ],
)
def test_addresses(address, url):
    assert RestClient(address, "a/b", 2, 9).model_url == f"{url}/v1/models/a%2Fb/versions/2"


def test_a_model_of_any_name(call, fake_server, images):
    line = refusal(call(client, "--server", fake_server.rest, "--model", "../x y?", "--input", images / "a.png"))
    assert "no model '../x y?' is ready there" in line


def test_mistakes_are_one_line(call, fake_server, images, tmp_path):
    image = images / "a.png"
    assert "for no image" in refusal(call(client, "--server", fake_server.rest, "--input", images / "text.png"))
    assert str(tmp_path) in refusal(call(client, "--export", tmp_path, "--input", image))
    assert "x.jpg" in refusal(call(client, "--export", tmp_path, "--input", "x.jpg"))
    assert "--batch: 0" in refusal(call(client, "--export", tmp_path, "--input", image, "--batch", 0))
    flags = ["--server", fake_server.rest, "--input", image, "--output"]
    assert "would replace" in refusal(call(client, *flags, images))
    assert "cannot be written" in refusal(call(client, *flags, image))


@pytest.mark.parametrize("flag", [["--version", 2], ["--model", "other"], ["--grpc"], ["--timeout", 5]])
def test_flags_of_a_server_are_not_ignored(call, toy_export, images, flag):
    """--version 2 of an export would otherwise be its newest version."""
    line = refusal(call(client, "--export", toy_export, *flag, "--input", images / "a.png"))
    assert f"{flag[0]}: only for a server" in line and "EXPORT/N" in line


def refusal(done):
    """Returns the error line of a command that ended with status 2."""
    (line,) = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert done.status == 2 and "Traceback" not in done.err
    return line


def test_pixels_are_upright_as_in_the_model(tmp_path):
    path = tmp_path / "a.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter
    Image.new("RGB", (60, 40)).save(path, exif=exif)
    Image.new("RGB", (60, 40)).save(tmp_path / "a.png", exif=exif)
    assert read_pixels(tmp_path / "a.png", (60, 40)).shape == (60, 40, 3)
    assert read_pixels(path, (60, 40)).shape == (60, 40, 3)
    with pytest.raises(Unreadable, match="the model saw 40 x 60 pixels"):
        read_pixels(path, (40, 60))
    with pytest.raises(Unreadable, match="cannot be drawn on"):
        read_pixels(Path(__file__), (10, 10))
    path.write_bytes(blank_png(20_000, 9_000))
    with pytest.raises(Unreadable, match=r"more than the 178956970 that are read\)$"):  # no flag raises it
        read_pixels(path, (9_000, 20_000))


def test_a_server_is_called_without_tensorflow():
    """And of the package's numeric code only pasting, run lengths and polygons: the client starts in half a second."""
    code = "import htc_tf.client, htc_tf.serving.rest_client, htc_tf.serving.grpc_client, sys\n"
    code += "print(sorted({n.partition('.')[0] for n in sys.modules} & {'tensorflow', 'keras', 'gin', 'apache_beam'}),"
    code += "sorted(n for n in sys.modules if n.startswith(('htc_tf.models', 'htc_tf.ops', 'htc_tf.data.'))))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    allowed = [
        "htc_tf.data.file_kinds",
        "htc_tf.data.image_checks",
        "htc_tf.data.image_io",
        "htc_tf.data.image_pixels",
        "htc_tf.ops",
        "htc_tf.ops.paste",
        "htc_tf.ops.polygon_simplification",
        "htc_tf.ops.polygons",
        "htc_tf.ops.rle_decoding",
        "htc_tf.ops.runs",
    ]
    expected = f"[] {allowed}"
    assert (done.returncode, done.stdout.strip()) == (0, expected), done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"),
        (b"<html></html>", "an HTML page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
        (("RGB", "TIFF"), "a TIFF, which htc_tf.predict reads"),
        (("RGB", "GIF"), "a GIF, which htc_tf.predict reads"),
        (("F", "TIFF"), "floating-point pixels"),
    ],
)
def test_a_format_that_the_model_does_not_know_is_named(tmp_path, content, words):
    assert decode.UNKNOWN.startswith(client.UNKNOWN)
    path = tmp_path / "x.jpg"
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        mode, form = content
        Image.new(mode, (8, 6)).save(path, form)
    assert words in client.describe_file(path)
