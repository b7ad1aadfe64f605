"""The plan, the cache and the table of `tests.studies.zoo`."""

import re
import sys
from pathlib import Path

import pytest

from htc_tf import config
from tests.studies import zoo

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """run(broken rows, flag, ...) returns the trained rows and the table; measuring is replaced."""

    def run(broken=(), *flags):
        done = []

        def measure(row, records, folder):
            if row.name in broken:
                raise SystemExit("the log ends so")
            done.append(row.name)
            counts = {"parameters": 80_311_413, "flops": 904_940_000_000, "count_cpu": 12.5}
            return {**counts, "losses": [4.25] * 9 + [1.5], "cpu": 31.4}

        monkeypatch.setattr(zoo, "measure", measure)
        monkeypatch.setattr(zoo, "make_records", lambda folder: folder / "records")
        output = tmp_path / "zoo.md"
        monkeypatch.setattr(sys, "argv", ["zoo", "--workdir", str(tmp_path), "--output", str(output), *flags])
        if broken:
            with pytest.raises(SystemExit, match=f"not done: {', '.join(broken)}"):
                zoo.main()
        else:
            zoo.main()
        return done, output.read_text()

    return run


def test_published_ap_is_read_from_the_header():
    found = {row.name: zoo.published_ap(row.files[0]) for rows in zoo.plan().values() for row in rows}
    assert found["htc_r50_fpn_1x_coco"] == "42.3 / 37.4" and found["htc_x101_64x4d_fpn_20e_coco"] == "47.0 / 41.4"
    assert found["cascade_rcnn_r50_fpn_1x_coco"] == "40.3" and found["row4_semantic"] == "43.2 / 38.0"
    assert [name for name, ap in found.items() if ap is None] == ["htc_r50_fpn_lsj_100e_coco"]


def test_every_file_exists():
    rows = [row for rows in zoo.plan().values() for row in rows]
    assert len({row.name for row in rows}) == len(rows) >= 20
    assert not [file for row in rows for file in row.files if not (ROOT / file).is_file()]
    assert zoo.OWN.keys() <= {Path(row.name).name for row in rows} | zoo.FAMILIES.keys()


def test_every_folder_with_experiment_configs_is_a_family():
    folders = {path.parent.name for path in (ROOT / "gin").glob("*/*_coco.gin")}
    assert folders <= zoo.FAMILIES.keys()
    assert {zoo.FAMILIES[folder] for folder in folders} <= zoo.plan().keys()


@pytest.mark.parametrize("family", ["", *zoo.FAMILIES])
def test_the_bindings_of_a_family_fit_the_small_size(family):
    for row in zoo.experiment_configs(family)[:2]:
        experiment, resolved = config.load(list(row.files), list(row.params))
        bound = dict(line.split(" = ", 1) for line in resolved.splitlines() if " = " in line)
        drawn = [change.__name__ for change in experiment.train_input.augment]
        for name, value in bound.items():
            if name.split(".")[0] in drawn and name.split(".")[-1] in ("min_sides", "sizes", "highest"):
                assert max(map(int, re.findall(r"\d+", value))) <= zoo.SIDE, name
        assert experiment.train_input.shapes == [(zoo.SIDE, zoo.SIDE)]


def test_it_continues_after_finished_rows(run):
    names = [row.name for rows in zoo.plan().values() for row in rows]
    done, table = run(("row2_interleaved", "swin_t"))
    assert done == [name for name in names if name not in ("row2_interleaved", "swin_t")]
    assert f"| [{zoo.BASE}](../gin/{zoo.BASE}.gin) | 42.3 / 37.4 | 80.3 | 905 | 4.25 → 1.50 | 31 |\n" in table
    assert "| [swin_t](../gin/options/swin_t.gin) | not yet | not yet | not yet | not yet |\n" in table
    assert f"{len(names) - 2} rows took" in table
    assert run((), "--only", "swin_t")[0] == ["swin_t"]
    assert run((), "--write_only") == ([], run((), "--only", zoo.BASE)[1])
    assert run()[0] == ["row2_interleaved"]
