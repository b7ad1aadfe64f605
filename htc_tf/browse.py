"""python -m htc_tf.browse: a web page to browse a dataset by class and size, with the ground truth of every image.

With a configuration, the page also shows augmented images as in training.
"""

from htc_tf import command_line, config
from htc_tf.errors import command
from htc_tf.web.server import Server


def parse():
    parser = command_line.Parser(prog="python -m htc_tf.browse", description=__doc__)
    config.add_flags(parser)
    parser.add_argument("--records", required=True, metavar="DIR", help="folder of records")
    parser.add_argument(
        "--port", type=command_line.port, default=8000, help="port, or 0 for any free port (default: 8000)"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 admits other machines (default: 127.0.0.1)"
    )
    return parser.parse_args()


@command
def main():
    flags = parse()
    server = Server(flags.host, flags.port, "browser.html")
    augmenter = None
    if flags.gin_file or flags.gin_param:
        experiment, _ = config.load(flags.gin_file, flags.gin_param, train_records=flags.records)

        from htc_tf.web.augmenter import Augmenter

        info = experiment.load_info(flags.records)
        augmenter = Augmenter(experiment.train_input, info)
    else:
        from htc_tf.data.datasets import load_info

        info = load_info(flags.records)
    from htc_tf.web.dataset_browser import DatasetBrowser
    from htc_tf.web.record_index import RecordIndex

    index = RecordIndex(info)
    server.routes = DatasetBrowser(index, augmenter).routes
    index.start()
    server.serve()
    index.stop()
    if augmenter:
        augmenter.finish()


if __name__ == "__main__":
    main()
