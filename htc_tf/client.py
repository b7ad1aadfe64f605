"""python -m htc_tf.client: asks an exported model about pictures: in TensorFlow Serving, or in this process."""

import json
import os
import sys
from contextlib import ExitStack
from pathlib import Path

from tqdm import tqdm

from htc_tf import command_line
from htc_tf.data.image_io import open_image, read_file, to_rgb
from htc_tf.errors import ModelFailed, TooLate, UserError, command, printable
from htc_tf.inference.exported_outputs import read_answers
from htc_tf.inference.inputs import VIDEOS, Unreadable, find_inputs
from htc_tf.inference.output_names import drawing_names, refuse_replacing

UNKNOWN = "not a JPEG"  # as `serving.decode` begins, which needs TensorFlow
EPILOG = """
One line of JSON for each picture on standard output: file, height, width, detections with class, score and box as y1,
x1, y2, x2 in pixels. DIR gets the drawings, and detections.jsonl, the same lines with the masks as COCO run lengths.
An image that cannot be read, that the model refuses or on which it fails is named on standard error and left out.
Exit status: 0, also where some were left out; 2 where all were, or for a mistake in what was asked, such as a server
that does not answer; 1 for anything else.
"""


def parse():
    parser = command_line.Parser(prog="python -m htc_tf.client", description=__doc__, epilog=EPILOG)
    place = parser.add_mutually_exclusive_group(required=True)
    place.add_argument(
        "--server", metavar="HOST:PORT", help="TensorFlow Serving (default ports: 8501, with --grpc 8500)"
    )
    place.add_argument("--export", metavar="EXPORT", help="the --output of htc_tf.export, asked in this process")
    parser.add_argument(
        "--input",
        required=True,
        action="extend",
        nargs="+",
        metavar="PATH",
        help="JPEG, PNG, GIF or BMP files, folders, globs, or - for a list of paths on standard input",
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="where drawings and detections.jsonl go")
    parser.add_argument(
        "--threshold", type=command_line.fraction, default=0.3, help="lowest score to tell and draw (default: 0.3)"
    )
    parser.add_argument("--grpc", action="store_true", help="ask by gRPC, not by REST")
    parser.add_argument("--model", default="htc", metavar="NAME", help="its name in the server (default: htc)")
    parser.add_argument(
        "--version", type=command_line.whole(0, 2**63 - 1), metavar="N", help="of the model (default: the newest)"
    )
    parser.add_argument(
        "--timeout",
        type=command_line.number(0.001, 1e6),
        default=60,
        metavar="S",
        help="seconds for an answer (default: 60)",
    )
    parser.add_argument(
        "--batch", type=command_line.batch, default=1, metavar="N", help="pictures in a request (default: 1)"
    )
    return parser.parse_args()


def connect(flags):
    """-> what has `predict`: a list of encoded pictures -> {output: array}."""
    if flags.export:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # read when TensorFlow starts: no notes about the build
        from htc_tf.serving.local_client import LocalModel

        return LocalModel(flags.export)
    if flags.grpc:
        from htc_tf.serving.grpc_client import GrpcServer as Server
    else:
        from htc_tf.serving.rest_client import RestServer as Server
    return Server(flags.server, flags.model, flags.version, flags.timeout)


def ask(model, paths, batch):
    """Yields (path, its Answer, or a UserError that says why there is none), `batch` images in a request."""
    for start in range(0, len(paths), batch):
        answers, contents = {}, {}
        for path in paths[start : start + batch]:
            try:
                contents[path] = read_file(path)
            except UserError as error:
                answers[path] = error
        answers |= ask_together(model, contents)
        yield from ((path, answers[path]) for path in paths[start : start + batch])


def ask_together(model, contents):
    """{path: encoded bytes} -> {path: Answer or ModelFailed}; where a request fails, its images are asked singly."""
    if not contents:
        return {}
    try:
        answers = read_answers(model.predict(list(contents.values())))
    except TooLate as error:
        raise UserError(f"{', '.join(map(str, contents))}: {error}") from error
    except ModelFailed as error:
        if len(contents) == 1:
            return dict.fromkeys(contents, error)
        singly = (ask_together(model, {path: content}) for path, content in contents.items())
        return {path: answer for answers in singly for path, answer in answers.items()}
    if len(answers) != len(contents):
        raise UserError(f"the model answers with {len(answers)} rows for {len(contents)} images")
    return dict(zip(contents, answers, strict=True))


@command
def main():
    flags = parse()
    found = find_inputs(flags.input, sys.stdin)
    paths = [path for path in found if path.suffix.lower() not in VIDEOS]
    left_out = [(path, "a video: python -m htc_tf.predict reads it") for path in found if path not in paths]
    model = connect(flags)
    names = drawing_names(paths)
    with ExitStack() as stack:
        if flags.output:
            refuse_replacing(paths, names, flags.output)
            file = stack.enter_context(open_lines(flags.output))
        bar = stack.enter_context(tqdm(total=len(paths), unit="img", desc="ask", disable=None))
        for name, (path, answer) in zip(names, ask(model, paths, flags.batch), strict=True):
            bar.update()
            refusal = str(answer) if isinstance(answer, UserError) else answer.status
            if refusal.startswith(UNKNOWN):
                refusal += f": it is {what_is(path)}"
            if refusal:
                left_out.append((path, refusal))
                continue
            sure = answer.above(flags.threshold)
            print(json.dumps({"file": str(path), **sure.describe()}), flush=True)
            if flags.output:
                file.write(json.dumps({"file": str(path), **sure.describe(masks=True)}) + "\n")
                try:
                    sure.draw(path, flags.output / name, flags.threshold)
                except Unreadable as error:
                    print(printable(f"not drawn: {error}"), file=sys.stderr)
    for path, reason in left_out:
        print(printable(f"left out {path}: {reason}"), file=sys.stderr)
    if len(left_out) == len(found):
        raise UserError("the model answered for no image")


def what_is(path):
    """What a file is whose format the model does not know, in words."""
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
