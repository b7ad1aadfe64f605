"""python -m htc_tf.serve_demo: a web page that shows a trained model's detections in images dropped on it.

The server is one process on this machine; it loads nothing from other hosts and stores nothing.
"""

import os
from pathlib import Path

import htc_tf
from htc_tf import command_line, config
from htc_tf.errors import command
from htc_tf.web.server import Server


def parse():
    parser = command_line.Parser(prog="python -m htc_tf.serve_demo", description=__doc__)
    config.add_flags(parser, reads_run=True)
    parser.add_argument(
        "--model",
        required=True,
        metavar="RUN|EXPORT",
        help="--workdir of a training run, folder of an export, or name of public weights",
    )
    parser.add_argument(
        "--port", type=command_line.port, default=8000, help="port, or 0 for any free port (default: 8000)"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 admits other machines (default: 127.0.0.1)"
    )
    parser.add_argument(
        "--max_megapixels",
        type=command_line.number(0.001, 1e6),
        default=50,
        metavar="N",
        help="limit on the size of an image (default: 50)",
    )
    parser.add_argument(
        "--max_megabytes",
        type=command_line.number(0.001, 1e6),
        default=32,
        metavar="N",
        help="limit on the size of a file (default: 32)",
    )
    return parser.parse_args()


@command
def main():
    flags = parse()
    max_pixels, max_bytes = round(flags.max_megapixels * 1e6), round(flags.max_megabytes * 1e6)
    server = Server(flags.host, flags.port, "demo.html", max_bytes)
    model = htc_tf.load(flags.model, flags.gin_file, flags.gin_param, flags.trust_config)
    from htc_tf.web.demo import Demo

    demo = Demo(model, Path(os.path.abspath(flags.model)).name, max_pixels, max_bytes)
    server.routes = demo.routes
    server.serve()
    demo.finish()


if __name__ == "__main__":
    main()
