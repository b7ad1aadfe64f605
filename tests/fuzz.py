"""python -m tests.fuzz: feeds random damage to every reader of foreign files, and keeps the input of each fault.

    python -m tests.fuzz [--seconds 60] [--seed 0] [--target pickle]

A reader may refuse its input by a UserError and nothing else: another exception, a crash, seconds of work or gigabytes
of memory are a fault. Its input is written to tests/corpus/TARGET/, where tests/test_fuzz.py reads it ever after.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import resource
import signal
import struct
import sys
import time
from collections import Counter
from pathlib import Path

from htc_tf import command_line
from htc_tf.errors import UserError, command

CORPUS = Path(__file__).parent / "corpus"
SECONDS_PER_INPUT = 3  # CPU-seconds; an input takes milliseconds
MEMORY = 4 << 30  # bytes of address space above the present, TensorFlow's included
MAX_BYTES = 1 << 16  # of an input
# Numbers that readers trust at their peril.
NUMBERS = [struct.pack(form, value) for form in ("<I", ">I", "<Q") for value in (0, 1, 2**31 - 1, 2**31, 2**32 - 1)]


def read_pickle(data):
    from htc_tf.weights import files

    found = files.decode(data, "fuzz.pth")
    files.collect(found, "fuzz.pth") if type(found) is dict else found


def read_image(data):
    from htc_tf.data import image_io

    image_io.decode(data, 1 << 20)


def read_run_lengths(data):
    from pycocotools import mask as coco_mask

    from htc_tf.ops.rle_decoding import decode_counts, is_valid_rle

    text = data.decode("latin-1")
    runs = decode_counts(text)
    for height in (1, 4, 7):
        size = [height, 0 if runs is None else max(int(runs.sum()) // height, 0)]
        mask = {"size": size, "counts": text}
        if is_valid_rle(mask, *size) and height * size[1] <= 1 << 20:
            # What is valid must be safe for pycocotools, and mean the same there.
            decoded = coco_mask.decode({"size": size, "counts": text.encode("latin-1")})
            assert int(decoded.sum()) == int(runs[1::2].sum()), "pycocotools decodes another mask"


def read_annotations(data):
    from htc_tf.data import annotations

    content = annotations.load(io.BytesIO(data), "fuzz.json", Counter())
    if isinstance(content, dict):
        annotations.repair(content, Counter())
        again = Counter()
        annotations.repair(content, again)
        assert not +again, f"a repaired file is repaired again: {dict(again)}"


def read_brush(data):
    from pipelines.checks import Rejected
    from pipelines.importers import brush

    try:
        brush.decode(list(data), 16, 16)
    except Rejected as error:
        raise UserError(str(error)) from error


TARGETS = {
    "pickle": read_pickle,
    "image": read_image,
    "run_lengths": read_run_lengths,
    "annotations": read_annotations,
    "brush": read_brush,
}


def seeds(target):
    """Returns inputs to start from: small valid ones, and the faults found so far."""
    from PIL import Image

    found = [path.read_bytes() for path in sorted((CORPUS / target).glob("*"))]
    if target == "image":
        for form in ("JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"):
            Image.linear_gradient("L").resize((16, 16)).convert("RGB").save(buffer := io.BytesIO(), form)
            found.append(buffer.getvalue())
    elif target == "annotations":
        box = {"id": 1, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 2], "segmentation": [[0, 0, 2, 0, 2, 2]]}
        found.append(json.dumps({"images": [{"id": 1, "height": 4, "width": "4"}], "annotations": [box]}).encode())
    elif target == "run_lengths":
        found += [b"52203", b"0P1", b"PPYo0"]
    elif target == "pickle":
        from tests.weights import hostile_files

        found += [data for data in hostile_files.PICKLES.values() if len(data) <= MAX_BYTES]
    return found or [b"\0\0\0\x08\x07"]


def mutate(data, others, rng):
    """Returns an input with one to eight random changes."""
    data = bytearray(data)
    for _ in range(rng.randint(1, 8)):
        place = rng.randrange(len(data) + 1)
        match rng.randrange(6):
            case 0 if data:
                data[place % len(data)] ^= 1 << rng.randrange(8)
            case 1:
                data[place:place] = rng.randbytes(rng.randint(1, 4))
            case 2:
                del data[place : place + rng.randint(1, 16)]
            case 3:
                data[place : place + 4] = rng.choice(NUMBERS)
            case 4:
                data[place:place] = data[place : place + rng.randint(1, 64)] * rng.randint(1, 8)
            case 5:
                other = rng.choice(others)
                data[place:] = other[rng.randrange(len(other) + 1) :]
    return bytes(data[:MAX_BYTES])


def warm_up(target):
    """Imports what a reader needs: TensorFlow takes seconds, which belong to no input."""
    with contextlib.suppress(Exception):
        TARGETS[target](b"")


def attempt(read, data):
    """Returns how a reader fails on an input, or None if it reads or refuses it."""

    def stop(*arguments):
        raise TimeoutError(f"more than {SECONDS_PER_INPUT} CPU-seconds")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, SECONDS_PER_INPUT)  # of CPU time: the machine may be busy
    try:
        read(data)
    except UserError:
        return None
    except (Exception, RecursionError) as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    return None


def fuzz(target, seconds, seed, corpus=CORPUS, readers=TARGETS):
    """Feeds a reader for some seconds; returns (inputs, {failure: path of the first input with it})."""
    rng, read, known = random.Random(seed), readers[target], seeds(target)
    pending = corpus / target / f"crash-{os.getpid()}"
    pending.parent.mkdir(parents=True, exist_ok=True)
    tried, failures, end = 0, {}, time.monotonic() + seconds
    while time.monotonic() < end:
        data = mutate(rng.choice(known), known, rng)
        pending.write_bytes(data)  # stays if the process dies
        failure = attempt(read, data)
        tried += 1
        if failure and failure not in failures:
            failures[failure] = pending.with_name(hashlib.sha256(data).hexdigest()[:16])
            pending.replace(failures[failure])
    pending.unlink(missing_ok=True)
    return tried, failures


def parse():
    parser = command_line.Parser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=command_line.number(0), default=60, help="for each reader (default: 60)")
    parser.add_argument("--seed", type=command_line.seed, default=None, help="default: another one each time")
    parser.add_argument("--target", choices=TARGETS, action="append", help="default: all")
    return parser.parse_args()


@command
def main():
    flags = parse()
    seed = flags.seed if flags.seed is not None else random.SystemRandom().randrange(2**32)
    found = 0
    for target in flags.target or TARGETS:
        warm_up(target)  # before the limit
        in_use = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (in_use + MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
        tried, failures = fuzz(target, flags.seconds, seed)
        print(f"{target}: {tried:,} inputs, seed {seed}, {len(failures)} faults", flush=True)
        for failure, path in failures.items():
            print(f"  {failure}\n    {path}", flush=True)
        found += len(failures)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
