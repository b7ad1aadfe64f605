"""The plan, the cache and the section of `tests.studies.costs`, which `tests.studies.zoo` keeps."""

import sys
from pathlib import Path

import pytest

from tests.studies import costs, recorded, zoo
from tests.studies.costs import measure

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def run(monkeypatch, tmp_path):
    """run(broken parts, flag, ...) returns the measured (part, mode) pairs and the page; nothing is measured."""

    def run(broken=(), *flags):
        done = []

        def measure(row, mode, folder):
            if row.part in broken:
                raise SystemExit("the log ends so")
            done.append((row.part, mode))
            seconds = 16.0 if row == costs.ROWS[0] else 24.0
            return {"cpu": seconds if mode == "inference" else 45.2, "loaded": 1.25e9, "peak": 3.5e9}

        monkeypatch.setattr(costs, "measure", measure)
        output = tmp_path / "zoo.md"
        monkeypatch.setattr(sys, "argv", ["costs", "--workdir", str(tmp_path), "--output", str(output), *flags])
        if broken:
            with pytest.raises(SystemExit, match="not done: Swin-T"):
                costs.main()
        else:
            costs.main()
        return done, output.read_text()

    return run


def test_every_file_exists():
    assert not [file for row in costs.ROWS for file in row.files if not (ROOT / file).is_file()]
    assert len({row.part for row in costs.ROWS}) == len(costs.ROWS)


def test_it_continues_after_finished_rows_and_the_zoo_keeps_its_section(run, tmp_path):
    pairs = [(row.part, mode) for row in costs.ROWS for mode in ("inference", "train")]
    done, page = run((), "--only", "HTC, ResNet-50", "--no_training")
    assert done == pairs[:1]
    row = f"| HTC, ResNet-50 | [htc_r50_fpn_1x_coco](../{costs.BASE}) | 16.0 | 1.00 | 1.2 | 2.2 |"
    assert f"{row}{' not yet |' * 3}\n" in page and f"|{' not yet |' * 7}\n" in page
    done, page = run(("Swin-T",))
    assert done == [pair for pair in pairs[1:] if pair[0] != "Swin-T"] and f"{row} 45 | 1.00 | 3.5 |\n" in page
    zoo.write(tmp_path / "zoo.md", zoo.plan(), {})
    text = (tmp_path / "zoo.md").read_text()
    assert text.startswith("# The zoo") and text.endswith(page[page.index(f"## {costs.TITLE}") :])
    assert run()[0] == [pair for pair in pairs if pair[0] == "Swin-T"]
    assert "| Swin-T | [swin_t](../gin/options/swin_t.gin) | 24.0 | 1.50 | 1.2 | 2.2 | 45 | 1.00 | 3.5 |\n" in run()[1]


def test_a_row_that_memory_does_not_suffice_for_says_so(monkeypatch, tmp_path):
    def fail(*arguments):
        raise recorded.Killed("killed", 17.6e9)

    monkeypatch.setattr(recorded, "run_module", fail)
    row = costs.ROWS[0]
    assert measure(row, "train", tmp_path) == {"exceeds": 17.6e9}
    found = {(row, "inference"): {"cpu": 10.0, "loaded": 1e9, "peak": 2e9}, (row, "train"): {"exceeds": 17.6e9}}
    assert costs.cells(row, found)[2:] == ["10.0", "1.00", "1.0", "1.0", "too large", "too large", "> 18"]
