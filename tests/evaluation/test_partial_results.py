"""Partial results of an evaluation: reading them after a kill, and replacing those of another evaluation."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from htc_tf.evaluation.partial_results import PartialResults, identify

ENTRIES = [([3, 1], [{"image_id": 3, "score": 0.1 + 0.2}]), ([2], []), ([5, 4], [{"image_id": 4, "score": 1e-3}])]


@pytest.fixture
def path(tmp_path):
    """The file of three batches, not closed, as after a kill."""
    partial = PartialResults(tmp_path / "x.partial.jsonl", "mine")
    assert partial.entries == []
    for ids, results in ENTRIES:
        partial.write(ids, results)
    return partial.path  # never closed


def test_written_batches_are_read_back_exactly(path):
    partial = PartialResults(path, "mine")
    assert partial.entries == ENTRIES and partial.images == 5
    partial.write([6], [])
    partial = PartialResults(path, "mine")
    assert partial.entries == [*ENTRIES, ([6], [])]
    partial.remove()
    assert not path.exists()


def test_a_kill_at_any_byte_keeps_the_complete_batches(path):
    content = path.read_bytes()
    ends = [at + 1 for at, byte in enumerate(content) if byte == ord("\n")]
    for length in range(len(content)):
        path.write_bytes(content[:length])
        whole = max(sum(end <= length for end in ends) - 1, 0)
        assert PartialResults(path, "mine").entries == ENTRIES[:whole]
    path.write_bytes(content[: ends[1]] + b"\xff\n" + content[ends[1] :])  # a damaged line and the lines after it
    assert PartialResults(path, "mine").entries == ENTRIES[:1]


def test_only_complete_steps_are_kept(path):
    partial = PartialResults(path, "mine", together=2)
    assert partial.entries == ENTRIES[:2]
    partial.write(*ENTRIES[0])
    partial.write(*ENTRIES[1])
    assert PartialResults(path, "mine", together=2).entries == [*ENTRIES[:2], *ENTRIES[:2]]


def test_results_of_another_evaluation_are_replaced_with_a_note(path, capsys):
    assert PartialResults(path, "another's").entries == []
    note = f"note: {path} replaced: 3 batches of an evaluation of other weights, configuration, data or devices\n"
    assert capsys.readouterr().err == note
    assert json.loads(path.read_text()) == {"identity": "another's"}
    assert PartialResults(path, "mine").entries == []
    assert not capsys.readouterr().err  # nothing was lost


def test_identity():
    def model(*values):
        return SimpleNamespace(variables=[SimpleNamespace(numpy=lambda v=v: np.float32(v)) for v in values])

    one = identify(model([1, 2], [[3]]), "config", "data")
    assert one == identify(model([1, 2], [[3]]), "config", "data")
    others = [identify(model([1, 2], [[4]]), "config", "data"), identify(model([1, 2], [[3]]), "configd", "ata")]
    assert len({one, *others}) == 3
