"""python -m htc_tf.explain: follows one image through a trained model on one page, from pixels to masks."""

from pathlib import Path

from htc_tf import command_line, config
from htc_tf.errors import UserError, command
from htc_tf.named_runs import open_run

EPILOG = """
The page shows the pyramid, the proposals, the boxes and masks of every stage, the semantic branch's map and the
detections. Parts that the model lacks are left out. It shows a single pass, without test-time augmentation.
"""


def parse():
    parser = command_line.Parser(prog="python -m htc_tf.explain", description=__doc__, epilog=EPILOG)
    config.add_flags(parser, reads_run=True)
    parser.add_argument(
        "--checkpoint", required=True, metavar="RUN", help="--workdir of a training run, or name of public weights"
    )
    parser.add_argument("--input", required=True, metavar="FILE", help="the image")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the page: .png, .jpg or .webp")
    parser.add_argument(
        "--threshold", type=command_line.fraction, default=0.3, help="lowest score of a detection (default: 0.3)"
    )
    parser.add_argument(
        "--objects",
        type=command_line.positive,
        default=3,
        metavar="N",
        help="detections shown in detail, best first (default: 3)",
    )
    parser.add_argument(
        "--width",
        type=command_line.whole(600, 10_000),
        default=2000,
        metavar="PIXELS",
        help="width of the page (default: 2000)",
    )
    return parser.parse_args()


@command
def main():
    flags = parse()
    from htc_tf.inference.inputs import Url, as_location, read_image
    from htc_tf.visualization.saving import check_output, save

    source = as_location(flags.input)
    if isinstance(source, Url):
        raise UserError(f"--input {source} is a URL: download it and give the file")
    check_output(flags.output)
    if flags.output.exists() and source.exists() and flags.output.samefile(source):
        raise UserError(f"--output {flags.output} would replace the image of --input: name another file")
    run = open_run(flags.checkpoint)
    categories = run.read_categories()
    experiment, _ = config.load(flags.gin_file, flags.gin_param, run, flags.trust_config)
    from htc_tf.explanation.layout import draw_explanation
    from htc_tf.explanation.trace import record_trace
    from htc_tf.inference.detector import restore

    image = read_image(source, limit="")
    trace = record_trace(restore(experiment, run), image, flags.threshold)
    page = draw_explanation(trace, categories, source.name, flags.width, flags.objects)
    save(page, flags.output)
    print(f"{flags.output}: {source} from pixels to {len(trace.objects)} detected objects")


if __name__ == "__main__":
    main()
