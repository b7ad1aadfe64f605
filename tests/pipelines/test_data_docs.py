"""docs/data.md agrees with the code: the record's keys, reasons and repairs, the flags, and Beam's flags."""

import re
import shlex
from pathlib import Path

import pytest

from htc_tf.data import schema
from pipelines import checks, coco_to_tfrecord
from pipelines.runners import DASK_CLASS, DEFAULT, DOCUMENTED, parse_beam
from tests.pipelines import field_cases

TEXT = (Path(__file__).resolve().parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^python -m pipelines\.coco_to_tfrecord (.*?)$", TEXT.replace("\\\n", " "), re.MULTILINE)


def rows(title):
    """Returns the rows of the table whose first column has this title: tuples of cells without backticks."""
    table = re.search(rf"^\| {title} \|.*\n\|[-|]+\|\n((?:\|.*\n)+)", TEXT, re.MULTILINE)[1]
    return [tuple(cell.strip().strip("`") for cell in line.strip("|\n").split(" | ")) for line in table.splitlines()]


def test_the_record():
    fields = (*schema.IMAGE_FIELDS, *schema.OBJECT_FIELDS, schema.SEMANTIC, schema.MASK_PNG)
    assert rows("key") == [(field.key, field.dtype.name, field.meaning) for field in fields]


@pytest.mark.parametrize(
    "title, meanings",
    [
        ("images", checks.IMAGE_REASONS),
        ("annotations", checks.ANNOTATION_REASONS),
        ("repair", checks.REPAIRS),
    ],
)
def test_reasons_and_repairs(title, meanings):
    assert rows(title) == list(meanings.items())


def test_kinds_of_input():
    """Each with its outcome, which `test_field_cases` verifies."""
    assert rows("input") == [(case.kind, *_cells(case.outcome)) for case in field_cases.CASES]


def _cells(outcome):
    verdict, _, what = outcome.partition(": ")
    return (f"{verdict}: `{what}" if what else verdict,)


def test_flags(capsys):
    with pytest.raises(SystemExit):
        coco_to_tfrecord.parse(["--help"])
    known = set(re.findall(r"^  (--\w+)", capsys.readouterr().out, re.MULTILINE))
    assert {name for name, _ in rows("flag")} == known


@pytest.mark.parametrize("command", COMMANDS)
def test_beam_knows_the_flags_of_every_command(command):
    words = shlex.split(command.replace("…", "--annotations a.json --images images --output records"))
    _, beam_arguments = coco_to_tfrecord.parse(words)
    runner = dict(word.split("=") for word in beam_arguments).get("--runner", "FnApiRunner")
    if runner == "DaskRunner":
        pytest.importorskip("distributed")
        runner = DASK_CLASS
    assert parse_beam(beam_arguments).get_all_options()["runner"] == runner


def test_every_runner_has_its_command():
    named = {runner for command in COMMANDS for runner in re.findall(r"--runner=(\w+)", command)}
    assert named == set(DOCUMENTED) - {DEFAULT}
