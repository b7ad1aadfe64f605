"""Inspects a folder of records: class, size and shape histograms, a contact sheet, and a check of checksums and counts.

    python -m pipelines.inspect_records --records DIR [--output sheet.png] [--images 24] [--verify]

Every record is read once; `--verify` also compares the checksums of the shards and the counts of dataset_info.json.
"""

import argparse
import os
from pathlib import Path

from htc_tf import command_line
from htc_tf.errors import UserError, command
from htc_tf.progress import progress_bar


@command
def main(arguments: list[str] | None = None) -> None:
    flags = parse(arguments)
    # TensorFlow takes seconds to import, so the flags are checked first.
    from htc_tf.data.datasets import load_info
    from pipelines.statistics import describe

    info = load_info(flags.records)
    stats, samples = count(info, flags.images if flags.output else 0, flags.verify)
    print(describe(info, stats))
    if flags.verify:
        verify_counts(info, stats)
        print(f"verified: {len(info.shards)} checksums, {stats.images} records, {stats.objects} objects")
    if flags.output:
        write_sheet(flags.output, info, stats, samples)
        print(f"{flags.output}: {len(samples)} of {stats.images} images")


def count(info, keep: int, verify: bool):
    """Reads all records of a dataset.

    Args:
        info: DatasetInfo.
        keep: Number of records to return.
        verify: If True, compare the shards' checksums too.
    Returns:
        The `Statistics` of all records, and the first `keep` records.
    Raises:
        UserError: A shard is damaged, holds the wrong number of records, or has a wrong checksum.
    """
    from htc_tf.data import schema
    from htc_tf.data.datasets import read_shard
    from pipelines import files
    from pipelines.statistics import Statistics

    stats, samples = Statistics(), []
    with progress_bar(total=info.records, desc="records", unit="image") as bar:
        for path, shard in zip(info.shard_paths, info.shards, strict=True):
            if verify and files.sha256(path) != shard.sha256:
                raise UserError(
                    f"{path} is damaged: its sha256 differs from the one listed; run the same preparation again, which "
                    "rewrites damaged shards"
                )
            for serialized in read_shard(path, shard.records):
                record = schema.unpack(serialized)
                stats.add(record)
                if len(samples) < keep:
                    samples.append(record)
                bar.update()
    return stats, samples


def verify_counts(info, stats) -> None:
    """Raises UserError if dataset_info.json lists other counts than the records hold."""
    for name in ("images", "objects", "crowd"):
        listed, found = getattr(info, name), getattr(stats, name)
        if listed != found:
            raise UserError(f"{info.folder}: dataset_info.json lists {listed} {name}, the records hold {found}")


def write_sheet(path: Path, info, stats, samples) -> None:
    """Draws a sample of records; the suffix of the path chooses PNG or JPEG."""
    from pipelines.contact_sheet import draw_sheet

    title = " / ".join(Path(os.path.abspath(info.folder)).parts[-2:])
    subtitle = f"{stats.images:,} images  ·  {stats.objects:,} objects  ·  {info.num_classes} classes"
    sheet = draw_sheet(samples, title, subtitle, info.categories)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except OSError as error:
        raise UserError(f"--output {path} cannot be written: {error.strerror or error}") from None


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command_line.Parser(
        prog="python -m pipelines.inspect_records", description="Counts, draws and verifies a folder of records."
    )
    parser.add_argument("--records", required=True, help="folder written by pipelines.coco_to_tfrecord")
    parser.add_argument("--output", type=Path, help="contact sheet to write, a .png or .jpg file")
    parser.add_argument("--images", type=command_line.positive, default=24, help="thumbnails on the sheet; default 24")
    parser.add_argument("--verify", action="store_true", help="compare all checksums and counts")
    flags = parser.parse_args(arguments)
    if flags.output and flags.output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--output {flags.output} must end in .png or .jpg")
    return flags


if __name__ == "__main__":
    main()
