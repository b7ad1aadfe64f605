"""python -m htc_tf.client: sends images to an exported model, in TensorFlow Serving or in this process."""

import itertools
import json
import sys
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from htc_tf import command_line
from htc_tf.data.image_io import open_image, read_file, to_rgb
from htc_tf.errors import ModelFailed, TooLate, UserError, command, printable
from htc_tf.inference.exported_outputs import read_responses
from htc_tf.inference.inputs import VIDEOS, Unreadable, Url, find_inputs
from htc_tf.inference.output_names import drawing_names, refuse_replacing

UNKNOWN = "not a JPEG"  # how `serving.decode.UNKNOWN` begins, which needs TensorFlow
# Flags that say nothing about an export in this process.
SERVER = ("grpc", "model", "version", "timeout")
EPILOG = """
Standard output has one line of JSON per image: file, height, width, detections with class, score and box as y1, x1, y2,
x2 in pixels. DIR receives the drawings, and detections.jsonl with the same lines and the masks as COCO run lengths.
An image that cannot be read, that the model refuses or on which it fails is named on standard error and left out.
Exit status: 0, even if some images were left out; 2 if all were, or for a user's mistake, for example a server that
does not respond; 1 for anything else.
"""


def parse():
    parser = command_line.Parser(prog="python -m htc_tf.client", description=__doc__, epilog=EPILOG)
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument(
        "--server",
        metavar="HOST:PORT",
        help="TensorFlow Serving: host, host:port or, without --grpc, a URL by http or https (default ports: 8501, "
        "with --grpc 8500)",
    )
    place.add_argument(
        "--export",
        metavar="EXPORT",
        help="the --output of htc_tf.export, loaded in this process: its newest version, or EXPORT/N",
    )
    parser.add_argument(
        "--input",
        required=True,
        action="extend",
        nargs="+",
        metavar="PATH",
        help="JPEG, PNG or BMP files, folders, globs, or - for a list of paths on standard input",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder for the drawings and detections.jsonl")
    parser.add_argument(
        "--threshold", type=command_line.fraction, default=0.3, help="lowest score to print and draw (default: 0.3)"
    )
    parser.add_argument("--grpc", action="store_true", help="use gRPC instead of REST")
    parser.add_argument("--model", default="htc", metavar="NAME", help="the model's name in the server (default: htc)")
    parser.add_argument(
        "--version", type=command_line.whole(0, 2**63 - 1), metavar="N", help="the model's version (default: newest)"
    )
    parser.add_argument(
        "--timeout",
        type=command_line.number(0.001, 1e6),
        default=60,
        metavar="S",
        help="seconds to wait for a whole response (default: 60)",
    )
    parser.add_argument(
        "--batch", type=command_line.batch, default=1, metavar="N", help="images per request (default: 1)"
    )
    flags = parser.parse_args()
    given = parser.given(flags, SERVER)
    if flags.export and given:
        parser.error(f"{given}: only for a server; leave it out (a version is --export EXPORT/N)")
    return flags


def connect(flags):
    """Returns the client that the flags name; its predict(files) maps encoded images to {output: array}."""
    if flags.export:
        from htc_tf.inference.exported import LocalClient

        return LocalClient(flags.export)
    if flags.grpc:
        from htc_tf.serving.grpc_client import GrpcClient as Client
    else:
        from htc_tf.serving.rest_client import RestClient as Client
    return Client(flags.server, flags.model, flags.version, flags.timeout)


def predict(model, paths, batch):
    """Yields (path, Response, or UserError if there is none), with `batch` images per request."""
    for start in range(0, len(paths), batch):
        responses, contents = {}, {}
        for path in paths[start : start + batch]:
            try:
                contents[path] = read_file(path)
            except UserError as error:
                responses[path] = error
        responses |= predict_batch(model, contents)
        yield from ((path, responses[path]) for path in paths[start : start + batch])


def predict_batch(model, contents):
    """Returns {path: Response or ModelFailed} of {path: bytes}; if a request fails, its images are sent one by one."""
    if not contents:
        return {}
    try:
        responses = read_responses(model.predict(list(contents.values())), len(contents))
    except TooLate as error:
        raise UserError(f"{', '.join(map(str, contents))}: {error}") from error
    except ModelFailed as error:
        if len(contents) == 1:
            return dict.fromkeys(contents, error)
        singles = (predict_batch(model, {path: content}) for path, content in contents.items())
        return {path: response for single in singles for path, response in single.items()}
    return dict(zip(contents, responses, strict=True))


def detect(model, paths, flags):
    """Prints and draws the detections of images; yields (path, reason) of each image without."""
    names = drawing_names(paths)
    with ExitStack() as stack:
        if flags.output:
            refuse_replacing(paths, names, flags.output)
            file = stack.enter_context(open_lines(flags.output))
        bar = stack.enter_context(tqdm(total=len(paths), unit="img", desc="predict", disable=None))
        for name, (path, response) in zip(names, predict(model, paths, flags.batch), strict=True):
            bar.update()
            refusal = str(response) if isinstance(response, UserError) else response.status
            if refusal.startswith(UNKNOWN):
                refusal += f": it is {describe_file(path)}"
            if refusal:
                yield path, refusal
                continue
            shown = response.above(flags.threshold)
            print(json.dumps({"file": str(path), **shown.describe()}), flush=True)
            if flags.output:
                file.write(json.dumps({"file": str(path), **shown.describe(masks=True)}) + "\n")
                try:
                    shown.draw(path, flags.output / name, flags.threshold)
                except Unreadable as error:
                    print(printable(f"not drawn: {error}"), file=sys.stderr)


@command
def main():
    flags = parse()
    found = find_inputs(flags.input, sys.stdin)
    others = {path: reason for path in found if (reason := why_not_sent(path))}
    paths = [path for path in found if path not in others]
    model = connect(flags)
    left_out = 0
    for path, reason in itertools.chain(others.items(), detect(model, paths, flags)):
        tqdm.write(printable(f"left out {path}: {reason}"), file=sys.stderr)
        left_out += 1
    if left_out == len(found):
        raise UserError("the model returned detections for no image")


def why_not_sent(path):
    """Returns in words why a path or Url is left out; "" if its content is sent."""
    if isinstance(path, Url) and not path.startswith("https://"):
        return "a URL: download it and give the file"
    kind = "a URL" if isinstance(path, Url) else "a video" if path.suffix.lower() in VIDEOS else ""
    return kind and f"{kind}: python -m htc_tf.predict reads it"


def describe_file(path):
    """Describes in words a file whose format the model does not know."""
    try:
        image = open_image(read_file(path))
        to_rgb(image)
        return f"a {image.format}, which htc_tf.predict reads: convert it to JPEG or PNG"
    except UserError as error:
        return str(error)


def open_lines(output):
    try:
        output.mkdir(parents=True, exist_ok=True)
        return (output / "detections.jsonl").open("w")
    except OSError as error:
        raise UserError(f"--output {output} cannot be written ({error.strerror}): name another folder") from error


if __name__ == "__main__":
    main()
