"""The plans and reports of the recorded trainings: `tests.studies.overfit`, `ablation` and `fine_tuning`."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from htc_tf import config
from tests.studies import ablation, fine_tuning, intervals, objects, overfit, recorded

TITLES = ["Cascade Mask R-CNN, the baseline", "+ interleaved execution", "+ mask information flow"]
TITLES += ["+ semantic branch: HTC"]


def entry(box=0.75, mask=0.625, configuration="c0ffee"):
    metrics = {"bbox/AP": box, "bbox/AP50": 1.0, "segm/AP": mask, "segm/AP50": 0.9}
    losses = [[step, float(step)] for step in range(1, 41)]
    seconds = {"train": [100.0, 60.0], "evaluate": [10.0, 6.0]}
    first = {"total": 1.0, "semantic": len(configuration)}
    found = {"metrics": metrics, "losses": losses, "configuration": configuration, "first_losses": first, **seconds}
    shares = {**dict.fromkeys(objects.SHARES, 0.75), "objects": 9}
    return {"machine": "2 cores", "objects": dict.fromkeys(objects.GROUPS, shares), **found}


def object_of(image_id, area=5000, iscrowd=0):
    return {"image_id": image_id, "area": area, "iscrowd": iscrowd, "category_id": 3}


def test_the_rows_are_those_of_the_paper():
    assert [recorded.title_of(row) for row in recorded.ROWS] == TITLES
    assert [recorded.published(row) for row in recorded.ROWS] == [
        (42.5, 36.5),
        (42.5, 36.7),
        (42.5, 37.4),
        (43.2, 38.0),
    ]


def test_every_row_has_its_overrides_on_coco_and_on_shapes():
    for number, row in enumerate(recorded.ROWS):
        for files in (
            [f"gin/ablation/{row}.gin"],
            [f"gin/ablation/{row}.gin", overfit.OVERRIDE],
            [ablation.CONFIGURATION, *ablation.overrides(row)],
        ):
            model = config.load(files, [])[0].build_model()
            found = (model.interleaved, model.mask_info_flow, model.semantic_head is not None)
            assert model.masks and len(model.stages) == 3 and found == tuple(number >= part for part in (1, 2, 3))


def test_images_are_chosen_by_the_rule():
    images = [{"id": i} for i in range(20, 0, -1)]
    objects = [object_of(i) for i in range(1, 19)]
    objects += [object_of(1, iscrowd=1), object_of(2, area=1023), *[object_of(3)] * 6]  # and 19, 20 have none
    chosen = overfit.choose({"images": images, "annotations": objects, "categories": []})
    assert [image["id"] for image in chosen["images"]] == list(range(4, 12))
    assert [o["image_id"] for o in chosen["annotations"]] == list(range(4, 12))


def test_stuff_maps_of_things():
    masks = np.zeros([2, 2, 3], np.uint8)
    masks[0, 0], masks[1, :, 0] = 1, 1
    assert overfit.draw_things((2, 3), [7, 9], masks).tolist() == [[9, 7, 7], [9, 182, 182]]


def test_losses_by_tenths():
    assert overfit.average_tenths(entry()["losses"]) == [2.5 + 4 * tenth for tenth in range(10)]


def test_the_section_on_overfitting():
    data = {"images": [{"id": 5}], "annotations": [object_of(5)], "categories": [{"id": 3, "name": "car"}]}
    entries = {recorded.ROWS[0]: entry(mask=0.7), recorded.ROWS[3]: entry(mask=0.5)}
    text = "\n".join(overfit.report(entries, data, SimpleNamespace(gin_param=["A=1"], seed=3)))
    assert f"| {TITLES[3]} | 0.750 | 1.000 | 0.500 | 0.900 | 40 | 100 | 10 | 1.1 |" in text
    assert (
        "Reached by 1 of 2; the lowest is 0.500." in text and '--gin_param "A=1"`' in text and "1 classes: car." in text
    )


def test_gains_are_paired_by_seed():
    gain, error = intervals.gains([0.1, 0.2, 0.3], [0.2, 0.3, 0.4])
    assert gain == pytest.approx(0.1) and error == pytest.approx(0, abs=1e-12)
    gain, error = intervals.gains([0.0, 0.0], [0.1, 0.3])
    assert gain == pytest.approx(0.2) and error == pytest.approx(0.1)
    assert intervals.gains([0.1], [0.2])[1] == float("inf")


def test_intervals_are_those_of_student():
    """Differences 0.1, 0.2, 0.3: their standard error is 0.1 / sqrt(3), and t(2) = 4.303."""
    gain, low, high = intervals.interval([0.0, 0.0, 0.0], [0.1, 0.2, 0.3])
    assert (gain, low, high) == pytest.approx((0.2, 0.2 - 4.303 * 0.1 / 3**0.5, 0.2 + 4.303 * 0.1 / 3**0.5))


def test_the_section_on_the_ablation(tmp_path):
    flags = SimpleNamespace(gin_param=[], seeds=[0, 1], steps=1000, output=tmp_path / "results.md", results=tmp_path)
    rows = recorded.ROWS
    entries = {(row, 0): entry(configuration=row) for row in rows}
    text = "\n".join(ablation.report(entries, flags))
    assert "4 of 8 trainings are done" in text and "interval" not in text and not list(tmp_path.iterdir())
    masks = {rows[1]: (0.725, 0.726), rows[2]: (0.625, 0.725)}
    for row in rows:
        for seed in flags.seeds:
            entries[row, seed] = entry(mask=masks.get(row, (0.625, 0.626))[seed], configuration=row)
    text = "\n".join(ablation.report(entries, flags))
    line = f"| {TITLES[2]} | **0.750** ± 0.000 | 0.750, 0.750 | **0.675** ± 0.071 | 0.625, 0.725 | 38.50, 38.50 | "
    assert f"{line}{rows[2]} | 42.5 / 37.4 |" in text
    assert "8 of 8 trainings" in text and "they took 880 CPU-seconds" in text
    box = "+0.0000 | +0.0000 to +0.0000 | no"
    assert f"| {TITLES[1]} | {box} | +0.1000 | +0.1000 to +0.1000 | yes |" in text
    assert f"| {TITLES[2]} | {box} | -0.0505 | -0.6796 to +0.5786 | no |" in text
    assert "| small (9) | 75.0 | +0.0 (+0.0 to +0.0) |" in text
    assert "| all of them |" in text and (tmp_path / ablation.PLOT).stat().st_size > 1000


def test_two_rows_that_are_one_network_are_refused():
    one, two = recorded.ROWS[:2]
    distinct = {
        (one, 0): entry(configuration="a"),
        (two, 0): entry(configuration="bb"),
        (one, 1): entry(configuration="a"),
    }
    ablation.check_distinct(distinct)
    same_file = distinct | {(two, 1): entry(configuration="a")}
    with pytest.raises(SystemExit, match=f"{one} and {two} with seed 1 have the same configuration: a"):
        ablation.check_distinct(same_file)
    same_numbers = distinct | {(two, 1): entry(configuration="b")}
    with pytest.raises(SystemExit, match=f"{one} and {two} with seed 1 have the same first_losses"):
        ablation.check_distinct(same_numbers)


FLAGS = SimpleNamespace(images=40, pretraining=3000, seeds=[0, 1], gin_param=["A=1"])


def test_fine_tuning_starts_one_arm_and_the_trials_from_weights():
    runs = fine_tuning.plan(FLAGS, Path("RUNS"))
    assert "--gin_param=STEPS=3000" in runs.pop(fine_tuning.PRETRAINING)
    arms = list(runs)[:6]
    assert [(run.arm, run.seed) for run in arms] == [(arm, seed) for seed in (0, 1) for arm in fine_tuning.ARMS]
    assert all("--gin_param=A=1" in runs[run] and "EPOCHS" not in "".join(runs[run]) for run in arms)
    started = {run.arm for run, how in runs.items() if "--init_from=RUNS/pretrained" in how}
    assert started == {run.arm for run in runs if "nothing" not in run.arm} and fine_tuning.TUNED in started
    assert arms[0].name == "40_images_pretrained_weights_seed0" and len({run.name for run in runs}) == len(runs)
    assert set(fine_tuning.KNOWN) | set(fine_tuning.NEW) == set(fine_tuning.THINGS)


def test_the_section_on_fine_tuning(monkeypatch):
    monkeypatch.setattr(fine_tuning, "TRIALS", {"rate x 2": ["BASE_LEARNING_RATE=1"]})
    entries = {(fine_tuning.TUNED, 0): entry(mask=0.4)}
    text = "\n".join(fine_tuning.report(entries, entry(), FLAGS))
    assert "| nothing | not yet |  | not yet |  |  |" in text
    assert "against the better" not in text and "rate x 2" not in text
    for seed, gain in enumerate((0.2, 0.4)):
        entries[fine_tuning.TUNED, seed] = entry(mask=0.1 + gain)
        entries[fine_tuning.NOTHING, seed] = entry(box=0.5, mask=0.1)
        entries[fine_tuning.FULL, seed] = entry(mask=0.05)
    entries["rate x 2", 0] = entry(box=0.25, mask=0.125)
    text = "\n".join(fine_tuning.report(entries, entry(), FLAGS))
    assert "| pretrained weights | **0.750** ± 0.000 | 0.750, 0.750 | **0.400** ± 0.141 | 0.300, 0.500 | 100 |" in text
    assert "better of the other two (nothing): box AP +0.250 ± 0.000, mask AP +0.300 ± 0.100" in text
    assert "| the override | 0.750 | 0.300 |" in text and "| rate x 2 | 0.250 | 0.125 |" in text
    assert "took 880 CPU-seconds" in text  # eight trainings of 100 with evaluations of 10


def test_sections_replace_their_own():
    replace = recorded.replace_section
    one = replace("", "First", ["a", ""])
    two = replace(one, "Second", ["b"])
    assert two == f"{recorded.TITLE}\n## First\n\na\n\n## Second\n\nb\n"
    assert replace(replace(two, "First", ["c"]), "First", ["a"]) == two


def test_what_was_done_by_another_command_is_done_again(tmp_path):
    cache = recorded.ResultCache(tmp_path / "new" / "done.json")
    assert cache.find("row", ["how"]) is None
    cache.add("row", ["how"], {"metrics": {"bbox/AP": 0.5}})
    again = recorded.ResultCache(cache.path)
    expected = {"how": ["how"], "machine": recorded.describe_machine(), "metrics": {"bbox/AP": 0.5}}
    assert again.find("row", ["how"]) == expected and again.find("row", ["else"]) is None


def test_results_name_the_machines_that_they_come_from():
    entries = [{"machine": "2 cores of A"}, {"machine": "4 cores of B"}, {"machine": "2 cores of A"}]
    assert recorded.machines_of(entries) == "2 cores of A and 4 cores of B"
    assert recorded.machines_of([]) == recorded.describe_machine()


def test_a_record_keeps_the_means_of_losses():
    losses = [[step, float(step)] for step in range(1, 4501)]
    kept = recorded.shorten(losses)
    assert len(kept) == recorded.LOSSES and kept[0] == [90, 45.5] and kept[-1] == [4500, 4455.5]
    assert recorded.shorten([[1, 2.0], [2, 4.0]]) == [[1, 2.0], [2, 4.0]]


def test_a_command_that_fails_is_shown(tmp_path):
    with pytest.raises(SystemExit, match=r"(?s)htc_tf\.train ended with 2.*--train_records"):
        recorded.run_module(tmp_path / "log", "htc_tf.train", "--workdir", "none")
    cpu, wall = recorded.run_module(tmp_path / "log", "htc_tf.train", "--help")
    assert cpu > 0 and wall > 0


def test_a_command_that_is_killed_tells_its_memory(tmp_path):
    (tmp_path / "victim.py").write_text(
        "import os, signal\nheld = bytearray(2**28)\nos.kill(os.getpid(), signal.SIGKILL)\n"
    )
    run = "try:\n    recorded.run_module('log', 'victim')\nexcept recorded.Killed as e:\n    print(e.peak, e)\n"
    # In a process of its own: a child's peak is at least that of the process that started it.
    words = [sys.executable, "-c", f"import os\nfrom tests.studies import recorded\nos.chdir({str(tmp_path)!r})\n{run}"]
    environment = {**os.environ, "PYTHONPATH": f"{recorded.ROOT}{os.pathsep}{tmp_path}"}
    peak, text = subprocess.run(words, env=environment, check=True, stdout=-1, text=True).stdout.split(maxsplit=1)
    assert 2**28 < int(peak) < 2**30 and text.startswith("victim ended with -9; the end of log:")


INTEL = "processor\t: 0\nmodel name\t: Fast CPU @ 2 GHz\n\nprocessor\t: 1\nmodel name\t: Fast CPU @ 2 GHz\n"
ARM = "processor\t: 0\nBogoMIPS\t: 243.75\nCPU implementer\t: 0x41\nCPU part\t: 0xd0c\n"  # has no name


@pytest.mark.parametrize(
    ("info", "affinity", "count", "expected"),
    [
        (INTEL, {0, 2}, 8, "2 cores of Fast CPU @ 2 GHz"),
        (ARM, {0}, 8, "1 core of aarch64"),
        (None, None, 8, "8 cores of aarch64"),  # a Mac: neither /proc nor sched_getaffinity
        (None, None, None, "1 core of aarch64"),
    ],
)
def test_a_machine_is_described_on_every_system(monkeypatch, tmp_path, info, affinity, count, expected):
    path = tmp_path / "cpuinfo"
    if info:
        path.write_text(info)
    monkeypatch.setattr(recorded, "Path", lambda name: path)
    monkeypatch.setattr(recorded.platform, "machine", lambda: "aarch64")
    monkeypatch.setattr(recorded.os, "cpu_count", lambda: count)
    if affinity:
        monkeypatch.setattr(recorded.os, "sched_getaffinity", lambda process: affinity, raising=False)
    else:
        monkeypatch.delattr(recorded.os, "sched_getaffinity", raising=False)
    assert recorded.describe_machine() == expected


def test_a_study_continues_after_its_last_training(tmp_path, capsys):
    a, b, c = map(overfit.Training, "abc")
    trainings = {a: ["--seed=0"], b: ["--seed=1"], c: []}
    made, written = [], []

    def train(training, how):
        assert trainings[training] == how
        made.append(training)
        if made == [a, c]:
            raise SystemExit("killed")
        return entry(mask=0.5)

    def run(write_only=False):
        """Runs the study as a new command does."""
        recorded.run_study("study", trainings, recorded.ResultCache(path), train, written.append, write_only)

    path = tmp_path / "results.json"
    with pytest.raises(SystemExit, match=r"results\.json has no finished"):
        run(write_only=True)
    recorded.ResultCache(path).add("b", ["--seed=1"], entry(mask=0.25))
    recorded.ResultCache(path).add("c", ["--seed=7"], entry())  # by other flags: made again
    run(write_only=True)
    assert not made and [list(entries) for entries in written] == [[b]]
    with pytest.raises(SystemExit, match="killed"):
        run()
    assert made == [a, c] and list(written[-1]) == [a, b]
    run()
    assert made == [a, c, c] and list(written[-1]) == [a, b, c]
    assert "b: bbox/AP 0.750, bbox/AP50 1.000, segm/AP 0.250" in capsys.readouterr().out
