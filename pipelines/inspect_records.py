"""Inspects a folder of records: class, size and shape histograms, a contact sheet, and a check of checksums and counts.

    python -m pipelines.inspect_records --records DIR [--output sheet.png] [--images 24] [--verify]

The counts come from the index that is written with each shard; records without one are read, but not their images.
`--verify` reads all records, and compares the checksums, the indexes and the counts of dataset_info.json.
"""

import argparse
import itertools
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

    from .statistics import describe

    info = load_info(flags.records)
    stats = count(info)
    print(describe(info, stats))
    if flags.verify:
        indexes = verify_shards(info)
        verify_counts(info, stats)
        found = f"{len(info.shards)} checksums, {stats.images} records, {stats.objects} objects"
        print(f"verified: {found}, {indexes} of {len(info.shards)} indexes")
    if flags.output:
        samples = read_samples(info, flags.images)
        write_sheet(flags.output, info, stats, samples)
        print(f"{flags.output}: {len(samples)} of {stats.images} images")


def count(info):
    """Returns the `Statistics` of all records of a dataset, from the shards' index files if there are any.

    Raises:
        UserError: A shard without an index is damaged or holds the wrong number of records.
    """
    from htc_tf.data.shard_index import read_all

    from .statistics import Statistics

    stats = Statistics()
    with progress_bar(total=info.records, desc="index", unit="image") as bar:
        for _, index in read_all(info):
            stats.add(index)
            bar.update(len(index.counts))
    return stats


def read_samples(info, number: int) -> list:
    """Returns the first records of a dataset."""
    from htc_tf.data import schema
    from htc_tf.data.datasets import read_shard

    pairs = zip(info.shard_paths, info.shards, strict=True)
    rows = itertools.chain.from_iterable(read_shard(path, shard.records) for path, shard in pairs)
    return [schema.unpack(serialized) for serialized in itertools.islice(rows, number)]


def verify_shards(info) -> int:
    """Reads all records, and compares them with the checksums and the indexes of their shards.

    Returns:
        The number of shards with an index.
    Raises:
        UserError: A shard or its index is damaged.
    """
    from htc_tf.data import datasets, record_walk, schema, shard_index

    from . import files

    rewrite = "run the same preparation again, which writes what is damaged anew"
    indexes = 0
    with progress_bar(total=info.records, desc="records", unit="image") as bar:
        for path, shard in zip(info.shard_paths, info.shards, strict=True):
            if files.sha256(path) != shard.sha256:
                raise UserError(f"{path} is damaged: its sha256 differs from the one listed; {rewrite}")
            rows = []
            for serialized in datasets.read_shard(path, shard.records):
                record = schema.unpack(serialized)
                rows.append(record_walk.numbers_of(len(serialized), record.image, record.objects))
                bar.update()
            index_path = shard_index.index_path(path)
            try:
                content = files.read_bytes(index_path)
                index = shard_index.decode(content, shard.records, shard.bytes, shard.sha256)
            except FileNotFoundError:
                continue
            except shard_index.Unusable as error:
                raise UserError(f"{index_path} is damaged: {error}; {rewrite}") from None
            wrong = shard_index.differences(index, shard_index.make(rows))
            if wrong:
                raise UserError(f"{index_path} disagrees with the records in {', '.join(wrong)}; {rewrite}")
            indexes += 1
    return indexes


def verify_counts(info, stats) -> None:
    """Raises UserError if dataset_info.json lists other counts than the records hold."""
    for name in ("images", "objects", "crowd"):
        listed, found = getattr(info, name), getattr(stats, name)
        if listed != found:
            raise UserError(f"{info.folder}: dataset_info.json lists {listed} {name}, the records hold {found}")


def write_sheet(path: Path, info, stats, samples) -> None:
    """Draws a sample of records; the suffix of the path chooses the format."""
    import numpy as np

    from htc_tf.visualization.saving import save

    from .contact_sheet import draw_sheet

    title = " / ".join(Path(os.path.abspath(info.folder)).parts[-2:])
    subtitle = f"{stats.images:,} images  ·  {stats.objects:,} objects  ·  {info.num_classes} classes"
    save(np.asarray(draw_sheet(samples, title, subtitle, info.categories)), path)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = command_line.Parser(
        prog=f"python -m {__package__}.inspect_records", description="Counts, draws and verifies a folder of records."
    )
    parser.add_argument("--records", required=True, help="folder written by pipelines.coco_to_tfrecord")
    parser.add_argument("--output", type=Path, help="contact sheet to write, a .png, .jpg or .webp file")
    parser.add_argument("--images", type=command_line.positive, default=24, help="thumbnails on the sheet; default 24")
    parser.add_argument("--verify", action="store_true", help="read all records; compare checksums, indexes and counts")
    flags = parser.parse_args(arguments)
    if not flags.output and parser.given(flags, ["images"]):
        parser.error("--images: only with --output; leave it out")
    if flags.output:
        from htc_tf.visualization.saving import check_output

        check_output(flags.output)
    return flags


if __name__ == "__main__":
    main()
