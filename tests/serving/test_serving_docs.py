"""docs/serving.md agrees with the code: signatures, outputs, flags, files, and an answer that the client reads."""

import base64
import json
import re
from pathlib import Path

import numpy as np
from pycocotools import mask as coco_mask

from htc_tf import benchmark, client
from htc_tf.inference.exported_outputs import REQUIRED, read_responses
from htc_tf.serving.decode import COSTLY, DAMAGED, EMPTY, UNKNOWN, UNREAD_BMP
from htc_tf.serving.module import NO_RECORD, NO_SIZE, ServingModule
from htc_tf.serving.outputs import MASKS
from htc_tf.serving.rest_client import read_values

ROOT = Path(__file__).resolve().parents[2]
TEXT = (ROOT / "docs" / "serving.md").read_text(encoding="utf-8")


def column(header):
    """Returns the names in backticks in the first column of the table whose header begins with `header`."""
    table = re.search(rf"^\| {re.escape(header)}.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)[1]
    return [name for row in table.splitlines() for name in re.findall(r"`([^`]+)`", row.split(" | ")[0])]


def test_signatures_and_outputs():
    signatures = column("signature")
    assert all(hasattr(ServingModule, name) for name in signatures if name != "serving_default")
    assert set(signatures) == {"serving_default", "predict_bytes", "predict_image", "predict_example"}
    assert set(column("output | |")) == set(REQUIRED)
    assert set(column("output | `[B, D]`")) == set(MASKS)


def test_flags(call):
    printed = {module: call(module, "--help").out for module in (client, benchmark)}
    listed = re.findall(r"`(--\w+) [A-Z]", TEXT[TEXT.index("### The client") : TEXT.index("### REST")])
    assert len(listed) > 5 and all(flag in printed[client] for flag in listed)
    for line in re.findall(r"^python -m htc_tf\.(?:client|benchmark) .*$", TEXT, re.MULTILINE):
        module = client if ".client " in line else benchmark
        assert all(flag in printed[module] for flag in re.findall(r"--\w+", line)), line


def test_reasons():
    reasons = (EMPTY, UNKNOWN, DAMAGED, COSTLY, UNREAD_BMP, NO_RECORD, NO_SIZE)
    assert not [reason for reason in reasons if f"`{reason}`" not in TEXT]


def test_files():
    named = column("file | |")
    files = {path.name for path in (ROOT / "docker").iterdir()}
    # docs/data.md and docs/training.md have those of the preparation and the training.
    assert set(named) == {name for name in files if not name.startswith(("prepare.", "train."))}


def test_the_answer_can_be_read():
    block = re.search(r"```json\n(.*?)```", TEXT, re.DOTALL)[1]
    rows = json.loads(block)["predictions"]
    (answer,) = read_responses({name: read_values([row[name] for row in rows], name) for name in rows[0]}, 1)
    assert answer.names == ["dog"] and answer.size == (6, 8) and answer.status == ""
    y1, x1, y2, x2 = answer.result.boxes[0].astype(int)
    bitmap = np.zeros(answer.size, np.uint8)
    bitmap[y1:y2, x1:x2] = 1
    counts = base64.b64decode(rows[0]["masks_rle_bytes"][0]["b64"])
    assert coco_mask.decode({"size": rows[0]["sizes"], "counts": counts}).tolist() == bitmap.tolist()
    assert answer.result.masks[0]["counts"].encode() == counts
