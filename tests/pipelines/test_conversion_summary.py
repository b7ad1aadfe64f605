"""The lines that a conversion of labels ends with."""

import os
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from htc_tf.errors import UserError
from pipelines import conversion_summary


def splits(train=(), val=(), test=()):
    """Returns the splits with annotations of the given category ids, each in an image of its own."""
    return {
        split: {"images": [{}] * len(ids), "annotations": [{"category_id": i, "segmentation": []} for i in ids]}
        for split, ids in (("train", train), ("val", val), ("test", test))
    }


def describe(found, names, problems=()):
    return conversion_summary.describe(found, names, Counter(), problems, Path("left_out.txt"))


def test_the_table():
    assert describe(splits([1, 1, 2], [2]), ["dog", "\x1b[2Jcat"]) == [
        "            train    val",
        "images          3      1",
        "dog             2      0",
        "\\x1b[2Jcat      1      1",
    ]


@pytest.mark.parametrize(
    "name",
    ["plain", "two words", "a'b $c `d` \\n", "tab\tline\nend", 'it\'s\x1b[2J\\ "$x"\x07f', "\xa0\u2028é", "\udce9"],
)
def test_the_commands_can_be_pasted(name):
    """Of a name with control characters too, which the terminal does not receive."""
    found = splits([1], [1])
    targets = {split: Path(name, f"{split}.json") for split in found}
    lines = list(conversion_summary.next_commands(found, targets, Path(name), Path("out", name)))
    for split, line in zip(("train", "val"), lines, strict=True):
        assert line.isprintable()
        words = line.partition(": ")[2].removeprefix("python")
        done = subprocess.run(["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True)
        pairs = {"annotations": f"{name}/{split}.json", "images": name, "output": f"out/{name}/{split}"}
        wanted = ["-m", "pipelines.coco_to_tfrecord", *(word for k, v in pairs.items() for word in (f"--{k}", v))]
        assert [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]] == wanted


def test_warnings_of_the_tool():
    found = splits([1])
    plain = describe(found, ["dog"], ["bad"])
    lines = conversion_summary.describe(found, ["dog"], Counter(), ["bad"], Path("left_out.txt"), ["a", "b"])
    assert lines == [*plain[:-2], "warning: a", "warning: b", *plain[-2:]]


def test_long_lists_are_cut():
    names = [f"c{number}" for number in range(1203)]
    lines = describe(splits([1]), names, [f"problem {number}" for number in range(12)])
    assert lines[101].startswith("c99 ") and lines[102] == "and 1,103 more classes"
    assert lines[103] == "left out: 12, listed in left_out.txt:" and lines[-1] == "  and 2 more"
    assert len(lines) == 2 + 100 + 1 + 1 + 10 + 1
    lines = describe(splits([1]), ["x" * 10**6, *(name.upper() for name in names), *names])
    assert max(map(len, lines)) < 400


@pytest.mark.parametrize(
    "found, skipped, problems, words",
    [
        (splits(val=[1, 1], test=[1]), {}, ["a"], "the images of all 3 are for val and test: --val_fraction 0 takes"),
        (splits(), {"none": 2}, ["a.json: bad\n", "b"], "2 left out; the first: a.json: bad\\n"),
        (splits(), {"none": 2}, [], "all are labeled none, which are no objects"),
        (splits(), {}, [], "none is annotated with an outline or a box"),
    ],
)
def test_no_object_for_training(found, skipped, problems, words):
    with pytest.raises(UserError) as error:
        conversion_summary.refuse_without_objects(found, Counter(skipped), problems, "--input DIR, 7 files")
    assert str(error.value).startswith(f"--input DIR, 7 files: no object for training: {words}")
    conversion_summary.refuse_without_objects(splits([1]), Counter(skipped), problems, "")
