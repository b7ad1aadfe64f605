"""What is in a folder of records: counts by class, objects per image, a sheet of thumbnails; and is it whole.

    python -m pipelines.inspect_records --records DIR [--output sheet.png] [--images 24] [--verify]

Before it: `pipelines.coco_to_tfrecord`. It reads every record once; `--verify` compares checksums and counts too.
"""

import argparse
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from tqdm import tqdm

from htc_tf.errors import UserError, command

BAR = 32
ROW = "{name:<22}{count:>9,}  {bar}"
OBJECT_BINS = ((0, 0), (1, 1), (2, 3), (4, 7), (8, 15), (16, 31), (32, None))


@dataclass
class Census:
    """What was counted while walking the records."""

    images: int = 0
    crowd: int = 0
    semantic: int = 0
    classes: Counter = field(default_factory=Counter)  # category id -> objects
    per_image: Counter = field(default_factory=Counter)  # number of objects -> images
    samples: list = field(default_factory=list)  # the first records

    @property
    def objects(self) -> int:
        return self.classes.total()


@command
def main(arguments: list[str] | None = None) -> None:
    flags = parse(arguments)
    # TensorFlow takes seconds to import: not before the flags are known to be good.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    from htc_tf.data.datasets import load_info

    info = load_info(flags.records)
    census = count(info, flags.images if flags.output else 0, flags.verify)
    print(describe(info, census))
    if flags.verify:
        verify_counts(info, census)
        print(f"verified: {len(info.shards)} checksums, {census.images} records, {census.objects} objects")
    if flags.output:
        write_sheet(flags.output, info, census)
        print(f"{flags.output}: {len(census.samples)} of {census.images} images")


def count(info, samples: int, verify: bool) -> Census:
    """Walks all records of a DatasetInfo and keeps the first few.

    Raises:
      UserError: a shard is damaged, holds another number of records or, with `verify`, has another checksum.
    """
    from htc_tf.data import schema
    from htc_tf.data.datasets import read_shard
    from pipelines import files

    census = Census()
    with tqdm(total=info.records, desc="records", unit="image") as bar:
        for path, shard in zip(info.shard_paths, info.shards, strict=True):
            if verify and files.sha256(Path(path)) != shard.sha256:
                raise UserError(f"{path} is not what was written: its sha256 differs; prepare the data again")
            for serialized in read_shard(path, shard.records):
                record = schema.unpack(serialized)
                census.images += 1
                census.crowd += sum(item.is_crowd for item in record.objects)
                census.semantic += bool(record.semantic)
                census.classes.update(item.label for item in record.objects)
                census.per_image[len(record.objects)] += 1
                if len(census.samples) < samples:
                    census.samples.append(record)
                bar.update()
    return census


def verify_counts(info, census: Census) -> None:
    """Raises UserError where dataset_info.json says another number than the records."""
    for name in ("images", "objects", "crowd"):
        listed, found = getattr(info, name), getattr(census, name)
        if listed != found:
            raise UserError(f"{info.folder}: dataset_info.json lists {listed} {name}, the records hold {found}")


def describe(info, census: Census) -> str:
    """The counts as text: totals, a histogram of objects per image, one of the classes."""
    mean = census.objects / max(census.images, 1)
    lines = [
        f"{info.folder}: {census.images:,} images, {census.objects:,} objects ({census.crowd:,} crowd regions), "
        f"{info.num_classes} classes",
        f"{'masks' if info.masks else 'boxes only, no masks'}; "
        + (f"stuff maps of {info.stuff.labels} labels" if info.stuff.present else "no stuff maps"),
        "",
        f"objects per image: {mean:.1f} on average, at most {max(census.per_image, default=0)}",
        *_histogram({_bin_name(low, high): _images_in(census, low, high) for low, high in OBJECT_BINS}),
        "",
        "objects per class",
    ]
    names = {category.id: category.name for category in info.categories}
    counts = {names[category_id]: number for category_id, number in census.classes.most_common()}
    lines += _histogram(counts)
    unseen = [name for category_id, name in names.items() if not census.classes[category_id]]
    if unseen:
        lines.append(f"without an object: {', '.join(unseen)}")
    return "\n".join(lines)


def write_sheet(path: Path, info, census: Census) -> None:
    """Draws the sample of records; the file's ending chooses PNG or JPEG."""
    from pipelines.contact_sheet import draw_sheet

    title = " / ".join(Path(os.path.abspath(info.folder)).parts[-2:])
    subtitle = f"{census.images:,} images  ·  {census.objects:,} objects  ·  {info.num_classes} classes"
    sheet = draw_sheet(census.samples, title, subtitle, info.category_ids)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sheet.save(path)
    except OSError as error:
        raise UserError(f"--output {path} cannot be written: {error.strerror or error}") from None


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.inspect_records", description="Counts, pictures and checks of a folder of records."
    )
    parser.add_argument("--records", required=True, help="a folder that pipelines.coco_to_tfrecord wrote")
    parser.add_argument("--output", type=Path, help="the sheet of thumbnails, a .png or .jpg file")
    parser.add_argument("--images", type=int, default=24, help="thumbnails on the sheet; default 24")
    parser.add_argument("--verify", action="store_true", help="compare every checksum and count")
    flags = parser.parse_args(arguments)
    if flags.output and flags.output.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--output {flags.output} must end in .png or .jpg")
    if flags.images < 1:
        raise UserError(f"--images {flags.images} must be 1 or more")
    return flags


def _histogram(counts):
    largest = max([*counts.values(), 1])
    return [
        ROW.format(name=f"  {name}"[:21], count=number, bar="█" * -(-BAR * number // largest)).rstrip()
        for name, number in counts.items()
    ]


def _bin_name(low, high):
    return f"{low} or more" if high is None else f"{low}" if low == high else f"{low} to {high}"


def _images_in(census, low, high):
    return sum(number for count, number in census.per_image.items() if low <= count and (high is None or count <= high))


if __name__ == "__main__":
    main()
