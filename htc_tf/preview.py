"""python -m htc_tf.preview: draws augmented training images with their ground truth as a grid."""

from pathlib import Path

from htc_tf import command_line, config
from htc_tf.errors import command


def parse():
    parser = command_line.Parser(prog="python -m htc_tf.preview", description=__doc__)
    config.add_flags(parser)
    parser.add_argument("--records", required=True, metavar="DIR", help="folder of the training records")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="the grid: .png, .jpg or .webp")
    parser.add_argument(
        "--images", type=command_line.positive, default=12, metavar="N", help="number of images (default: 12)"
    )
    parser.add_argument(
        "--columns", type=command_line.whole(1, 100), default=4, metavar="N", help="images per row (default: 4)"
    )
    parser.add_argument("--seed", type=command_line.seed, default=0, help="random seed of training (default: 0)")
    return parser.parse_args()


@command
def main():
    flags = parse()
    from htc_tf.visualization.saving import check_output, save

    check_output(flags.output)
    experiment, _ = config.load(flags.gin_file, flags.gin_param, train_records=flags.records)
    from htc_tf.training.batch_preview import draw_training_images
    from htc_tf.visualization.drawing import contact_sheet

    info = experiment.load_info(flags.records)
    images = draw_training_images(experiment.train_input, info, flags.seed, flags.images)
    save(contact_sheet(images, flags.columns), flags.output)
    print(f"{flags.output}: {len(images)} augmented training images")


if __name__ == "__main__":
    main()
