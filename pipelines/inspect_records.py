"""What is in a folder of records: histograms of classes, sizes and shapes, a sheet of thumbnails; and is it whole.

    python -m pipelines.inspect_records --records DIR [--output sheet.png] [--images 24] [--verify]

Before it: `pipelines.coco_to_tfrecord`. It reads every record once, for `pipelines.statistics` to count; `--verify`
compares checksums and counts too.
"""

import argparse
import os
from pathlib import Path

from tqdm import tqdm

from htc_tf import command_line
from htc_tf.errors import UserError, command


@command
def main(arguments: list[str] | None = None) -> None:
    flags = parse(arguments)
    # TensorFlow takes seconds to import: not before the flags are known to be good.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from htc_tf.data.datasets import load_info
    from pipelines.statistics import describe

    info = load_info(flags.records)
    census, samples = count(info, flags.images if flags.output else 0, flags.verify)
    print(describe(info, census))
    if flags.verify:
        verify_counts(info, census)
        print(f"verified: {len(info.shards)} checksums, {census.images} records, {census.objects} objects")
    if flags.output:
        write_sheet(flags.output, info, census, samples)
        print(f"{flags.output}: {len(samples)} of {census.images} images")


def count(info, keep: int, verify: bool):
    """Walks all records of a DatasetInfo: their Census, and the first `keep` of them.

    Raises:
      UserError: a shard is damaged, holds another number of records or, with `verify`, has another checksum.
    """
    from htc_tf.data import schema
    from htc_tf.data.datasets import read_shard
    from pipelines import files
    from pipelines.statistics import Census

    census, samples = Census(), []
    with tqdm(total=info.records, desc="records", unit="image") as bar:
        for path, shard in zip(info.shard_paths, info.shards, strict=True):
            if verify and files.sha256(path) != shard.sha256:
                raise UserError(
                    f"{path} is not what was written: its sha256 differs; prepare the data again with the same "
                    "command, which writes damaged shards anew"
                )
            for serialized in read_shard(path, shard.records):
                record = schema.unpack(serialized)
                census.add(record)
                if len(samples) < keep:
                    samples.append(record)
                bar.update()
    return census, samples


def verify_counts(info, census) -> None:
    """Raises UserError where dataset_info.json says another number than the records."""
    for name in ("images", "objects", "crowd"):
        listed, found = getattr(info, name), getattr(census, name)
        if listed != found:
            raise UserError(f"{info.folder}: dataset_info.json lists {listed} {name}, the records hold {found}")


def write_sheet(path: Path, info, census, samples) -> None:
    """Draws the sample of records; the file's ending chooses PNG or JPEG."""
    from pipelines.contact_sheet import draw_sheet

    title = " / ".join(Path(os.path.abspath(info.folder)).parts[-2:])
    subtitle = f"{census.images:,} images  ·  {census.objects:,} objects  ·  {info.num_classes} classes"
    sheet = draw_sheet(samples, title, subtitle, info.category_ids)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except OSError as error:
        raise UserError(f"--output {path} cannot be written: {error.strerror or error}") from None


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command_line.Parser(
        prog="python -m pipelines.inspect_records", description="Counts, pictures and checks of a folder of records."
    )
    parser.add_argument("--records", required=True, help="a folder that pipelines.coco_to_tfrecord wrote")
    parser.add_argument("--output", type=Path, help="the sheet of thumbnails, a .png or .jpg file")
    parser.add_argument("--images", type=command_line.positive, default=24, help="thumbnails on the sheet; default 24")
    parser.add_argument("--verify", action="store_true", help="compare every checksum and count")
    flags = parser.parse_args(arguments)
    if flags.output and flags.output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--output {flags.output} must end in .png or .jpg")
    return flags


if __name__ == "__main__":
    main()
