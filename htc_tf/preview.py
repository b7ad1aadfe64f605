"""python -m htc_tf.preview: draws what training sees: images as they are augmented, with their truth."""

from pathlib import Path

from htc_tf import command_line, config
from htc_tf.errors import UserError, command

ENDINGS = (".png", ".jpg", ".jpeg")


def parse():
    parser = command_line.Parser(prog="python -m htc_tf.preview", description=__doc__)
    config.add_flags(parser)
    parser.add_argument("--records", required=True, metavar="DIR", help="records to learn from")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the sheet, a .png or .jpg")
    parser.add_argument(
        "--images", type=command_line.positive, default=12, metavar="N", help="images on the sheet (default: 12)"
    )
    parser.add_argument(
        "--columns", type=command_line.whole(1, 100), default=4, metavar="N", help="images in a row (default: 4)"
    )
    parser.add_argument("--seed", type=command_line.seed, default=0, help="the --seed of training (default: 0)")
    return parser.parse_args()


@command
def main():
    flags = parse()
    if flags.output.suffix.lower() not in ENDINGS:
        raise UserError(f"--output {flags.output} must end in {', '.join(ENDINGS)}")
    experiment, _ = config.load(flags.gin_file, flags.gin_param)
    from PIL import Image

    from htc_tf.training.batch_preview import draw_training_images
    from htc_tf.visualization.drawing import contact_sheet

    info = experiment.load_info(flags.records)
    pictures = draw_training_images(experiment.train_input, info, flags.seed, flags.images)
    try:
        flags.output.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(contact_sheet(pictures, flags.columns)).save(flags.output)
    except OSError as error:
        raise UserError(f"--output {flags.output} cannot be written: {error.strerror or error}") from None
    print(f"{flags.output}: {len(pictures)} images as training sees them")


if __name__ == "__main__":
    main()
