"""Summary of `pipelines.to_coco`: counts, warnings, what is left out, and the commands that prepare the records."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from htc_tf.errors import UserError, printable, shell_word

from .checks import show

MAX_LISTED = 10  # problems that are printed
MAX_CLASSES = 100  # rows of the table

Splits = Mapping[str, Mapping[str, list[dict[str, Any]]]]  # {split: {"images", "annotations"}}


def describe(
    splits: Splits,
    names: Sequence[str],
    skipped: Counter,
    problems: Sequence[str],
    path: Path,
    warnings: Sequence[str] = (),
) -> list[str]:
    """Returns lines.

    Args:
        splits: Images and annotations of each split.
        names: The classes, in the order of their ids from 1.
        skipped: Numbers of objects of each label that is no class.
        problems: A text for each entry that is left out.
        path: The file that lists all of them.
        warnings: Texts of the tool's importer.
    """
    lines = [*_count(splits, names)]
    if skipped:
        lines.append(f"{sum(skipped.values())} objects labeled {' or '.join(skipped)} are no objects")
    lines += [f"warning: {text}" for text in warnings[:MAX_LISTED]]
    if len(warnings) > MAX_LISTED:
        lines.append(f"warning: {len(warnings) - MAX_LISTED} more like these")
    return [*lines, *_case_variants(names), *_boxes_alone(splits), *_list_problems(problems, path)]


def refuse_without_objects(splits: Splits, skipped: Counter, problems: Sequence[str], where: str) -> None:
    """Raises UserError if there is no object for training; `where` names the files."""
    counts = {split: len(content["annotations"]) for split, content in splits.items()}
    if counts["train"]:
        return
    if any(counts.values()):
        others = " and ".join(split for split, number in counts.items() if number)
        reason = f"the images of all {sum(counts.values())} are for {others}: --val_fraction 0 takes all for training"
    elif problems:
        reason = f"{len(problems)} left out; the first: {printable(problems[0])}"
    elif skipped:
        reason = f"all are labeled {' or '.join(skipped)}, which are no objects"
    else:
        reason = "none is annotated with an outline or a box"
    raise UserError(f"{where}: no object for training: {reason}")


def next_commands(splits: Splits, targets: Mapping[str, Path], images: Path, records: Path) -> Iterator[str]:
    """Yields the commands that prepare the records in a folder."""
    masks = any("segmentation" in row for content in splits.values() for row in content["annotations"])
    for place, split in enumerate(split for split, content in splits.items() if content["images"]):
        yield (
            f"{' and:' if place else 'next:'} python -m {__package__}.coco_to_tfrecord "
            f"--annotations {shell_word(targets[split])} --images {shell_word(images)} "
            f"--output {shell_word(records / split)}{'' if masks else ' --masks none'}"
        )


def _count(splits, names):
    """Yields the lines of a table: images, and objects of each class, of each split."""
    counts = {split: Counter(row["category_id"] for row in splits[split]["annotations"]) for split in splits}
    shown = [split for split in splits if split != "test" or splits[split]["images"]]
    rows = [("", shown), ("images", [len(splits[split]["images"]) for split in shown])]
    listed = enumerate(names[:MAX_CLASSES], 1)
    rows += [(printable(show(name)), [counts[split][i] for split in shown]) for i, name in listed]
    width = max(len(name) for name, _ in rows)
    for name, numbers in rows:
        yield f"{name:{width}}" + "".join(f"{number:>7}" for number in numbers)
    if len(names) > MAX_CLASSES:
        yield f"and {len(names) - MAX_CLASSES:,} more classes"


def _case_variants(names):
    """Yields a line for the names of classes that differ in case alone."""
    found = {}
    for name in names:
        found.setdefault(name.casefold(), []).append(show(name))
    same = [" and ".join(variants) for variants in found.values() if len(variants) > 1]
    if same:
        more = f", and {len(same) - MAX_LISTED} more" if len(same) > MAX_LISTED else ""
        yield (
            f"warning: different classes by case alone: {', '.join(same[:MAX_LISTED])}{more}; rename the labels if "
            "they are the same"
        )


def _boxes_alone(splits):
    """Yields a line about objects without a mask beside others with one, which the preparation rejects."""
    rows = [row for content in splits.values() for row in content["annotations"]]
    masks = sum("segmentation" in row for row in rows)
    if masks not in (0, len(rows)):
        yield (
            f"warning: {len(rows) - masks} of {len(rows)} objects have a box and no mask: draw their outlines, or "
            "prepare boxes alone by --masks none"
        )


def _list_problems(problems, path):
    """Yields lines about the first problems; the file `path` lists all of them."""
    if problems:
        yield f"left out: {len(problems)}, listed in {path}:"
        yield from (f"  {problem}" for problem in problems[:MAX_LISTED])
    if len(problems) > MAX_LISTED:
        yield f"  and {len(problems) - MAX_LISTED} more"
