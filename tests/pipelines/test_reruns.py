"""Reruns of the same command: after changed images or damage, and beside another job."""

import json
import os
import re
import shutil

import PIL.Image
import pytest

from htc_tf import lock
from htc_tf.data.datasets import INFO_FILE, load_info, read_shard
from htc_tf.data.schema import unpack
from pipelines import files, lvis, merged_file, output_folder, report, shards
from pipelines.plan import PLAN_FILE
from tests.pipelines.preparation import contents, prepare, read_only, refuse


def shard_times(folder):
    return {path.name: path.stat().st_mtime_ns for path in (folder / "records").glob("*.tfrecord")}


def encoded(folder):
    """Returns the stored image files by name."""
    info = load_info(folder / "records")
    pairs = zip(info.shard_paths, info.shards, strict=True)
    images = [unpack(row).image for path, shard in pairs for row in read_shard(path, shard.records)]
    return {image.filename: image.encoded for image in images}


def image_of(folder, shard):
    line = (folder / "records" / "plan" / f"{shard:05d}.jsonl").read_text()
    return folder / "images" / json.loads(line)["image"]["file_name"]


@pytest.mark.parametrize("same_time", [False, True])
def test_another_image_under_the_same_name_is_recorded(folder, capsys, same_time):
    times, image = shard_times(folder), image_of(folder, 2)
    before = image.stat()
    PIL.Image.new("RGB", PIL.Image.open(image).size, (200, 0, 0)).save(image)
    if same_time:
        # The same size too: bytes after a JPEG's end have no meaning.
        image.write_bytes(image.read_bytes().ljust(before.st_size, b"\0"))
        os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
        assert (image.stat().st_size, image.stat().st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    prepare(folder)
    assert encoded(folder)[image.name] == image.read_bytes()
    changed = {name for name, time in shard_times(folder).items() if time != times[name]}
    assert changed == {"00002-of-00006.tfrecord"}
    expected = (
        f"the files of 1 of 6 images are new or have changed since the last run, the first is {image.name}: 1 of 6"
    )
    assert expected in capsys.readouterr().out


def test_another_stuff_map_is_recorded(folder):
    image = image_of(folder, 4)
    path = folder / "stuff" / f"{image.stem}.png"
    PIL.Image.new("L", PIL.Image.open(path).size, 7).save(path)
    prepare(folder)
    info = load_info(folder / "records")
    (record,) = read_shard(info.shard_paths[4], 1)
    assert unpack(record).semantic == path.read_bytes()


def test_a_plan_without_the_newer_options_stays_valid(folder):
    path, before = folder / "records" / "plan.json", load_info(folder / "records")
    plan = files.read_checksummed_json(path)
    for fields, name in ((plan, "merged"), (plan, "side_files"), (plan["options"], "follow_links")):
        del fields[name]
    files.write_checksummed_json(path, plan)
    prepare(folder)
    assert load_info(folder / "records").shards == before.shards


def test_another_folder_is_refused_by_name(folder, capsys):
    before = contents(folder)
    shutil.copytree(folder / "images", folder / "copies")
    line = refuse(capsys, folder, images="copies")
    assert f"--images was {folder / 'images'}, is {folder / 'copies'}" in line
    shutil.copytree(folder / "stuff", folder / "maps")
    assert f"--stuff was {folder / 'stuff'}, is {folder / 'maps'}" in refuse(capsys, folder, stuff="maps")
    assert contents(folder) == before


def test_a_link_to_another_folder_is_another_folder(folder, capsys):
    link = folder / "current"
    link.symlink_to(folder / "images")
    prepare(folder, images="current")
    shutil.copytree(folder / "images", folder / "copies")
    link.unlink()
    link.symlink_to(folder / "copies")
    assert str(folder / "copies") in refuse(capsys, folder, images="current")


def test_records_survive_the_loss_of_their_images(folder, capsys):
    """If the images are deleted and the command runs again, the records stay, and the user is told."""
    before, image = contents(folder), image_of(folder, 1)
    image.unlink()
    line = refuse(capsys, folder)
    assert image.name in line and "gone" in line
    assert contents(folder) == before


def test_other_annotations_are_refused(folder, capsys):
    path = folder / "instances.json"
    path.write_text(path.read_text() + "\n")
    assert "other content of instances.json" in refuse(capsys, folder)


@pytest.mark.parametrize("pattern", output_folder.WRITTEN)
def test_a_file_of_the_user_is_not_replaced(folder, capsys, pattern):
    name = pattern.replace("*", "00000", 1).replace("*", "00006")
    path, plan = folder / "images" / name, folder / "images" / "plan"
    path.write_text("mine")
    plan.mkdir()
    (plan / "notes.jsonl").write_text("mine")
    line = refuse(capsys, folder, output="images")
    assert f"images holds a {name} that this command has not written: give another folder" in line
    assert path.read_text() == "mine"
    path.unlink()
    prepare(folder, output="images")
    assert (plan / "notes.jsonl").read_text() == "mine"


def test_the_files_that_are_not_replaced_have_the_names_that_are_written(folder):
    written = {path.name for path in (folder / "records").iterdir() if path.is_file()}
    fixed = {name for name in output_folder.WRITTEN if "*" not in name}
    assert written <= fixed | {name for name in written if re.match(r"\d{5}-of-00006\.", name)}
    assert fixed >= {PLAN_FILE, report.REPORT_FILE, report.REJECTED_FILE, merged_file.FILE, lvis.FILE, INFO_FILE}


@pytest.mark.parametrize(
    "missing", [["plan"], ["plan.json"], ["plan", "plan.json"], ["plan/*.jsonl", "dataset_info.json"]]
)
def test_a_rerun_writes_a_missing_plan(folder, missing):
    before = contents(folder)
    for pattern in missing:
        for path in (folder / "records").glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    prepare(folder)
    assert contents(folder) == before


DAMAGED = [
    "00003-of-00006.tfrecord",
    "00003-of-00006.json",
    "00003-of-00006.index",
    "plan.json",
    "plan/00003.jsonl",
    "plan/files.json",
    "dataset_info.json",
    "report.json",
]


@pytest.mark.parametrize("name", DAMAGED)
def test_a_rerun_repairs_a_flipped_bit(folder, name):
    before, path = contents(folder), folder / "records" / name
    content = bytearray(path.read_bytes())
    # In a JSON file, a digit that stays a digit: damage that no parser notices.
    digits = [index for index, byte in enumerate(content) if byte in b"0246"]
    binary = path.suffix in (".tfrecord", ".index")
    content[len(content) // 2 if binary else digits[len(digits) // 2]] ^= 1
    path.write_bytes(content)
    if name.startswith("plan"):  # an unfinished shard is made from the plan
        (folder / "records" / "00003-of-00006.json").unlink()
    prepare(folder)
    assert contents(folder) == before


def test_missing_indexes_are_written_from_the_records(folder, monkeypatch, capsys):
    """As of a version that wrote none: no image is read, the shards stay, and a folder may be read-only."""
    before, times = contents(folder), shard_times(folder)
    for path in (folder / "records").glob("*.index"):
        path.unlink()
    with read_only(monkeypatch):
        prepare(folder)
    assert len(contents(folder)) == len(before) - 6
    capsys.readouterr()
    prepare(folder)
    assert "6 finished shards had no index" in capsys.readouterr().out
    assert contents(folder) == before and shard_times(folder) == times


def test_a_damaged_shard_without_an_index_is_named(folder):
    """As in a store, of whose shards only the sizes are compared."""
    path = folder / "records" / "00002-of-00006.tfrecord"
    sidecar = json.loads(path.with_suffix(".json").read_text())
    path.with_suffix(".index").unlink()
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(shards.UserError, match=r"00002-of-00006\.tfrecord is damaged: .* remove it, then run"):
        shards.repair_indexes(str(folder / "records"), [None, sidecar])


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\0" * 100])
def test_a_rerun_repairs_the_damage_of_a_power_loss(folder, content):
    before = contents(folder)
    for name in ("plan.json", "00001-of-00006.json"):
        (folder / "records" / name).write_bytes(content)
    prepare(folder)
    assert contents(folder) == before


def test_records_of_an_older_version_are_unchanged(folder, capsys):
    path = folder / "records" / "plan.json"
    plan = json.loads(path.read_text())
    del plan[files.CHECKSUM]
    path.write_text(json.dumps(plan | {"version": 2}))
    before = contents(folder)
    assert "of another version" in refuse(capsys, folder)
    assert contents(folder) == before


def test_two_jobs_do_not_share_a_folder(folder, capsys):
    path = folder / "records" / "lock"
    with lock.hold(path, "{holder}"):
        line = refuse(capsys, folder)
        assert f"is being written by process {os.getpid()} on" in line and str(folder / "records") in line
        prepare(folder, output="others")
    assert not path.exists() and not (folder / "others" / "lock").exists()
    path.write_text("left by a killed job\n")
    prepare(folder)
    assert not path.exists()


def test_a_rejected_image_is_read_again_when_its_file_changes(folder):
    image = image_of(folder, 5)
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2])
    prepare(folder)
    assert load_info(folder / "records").counters["image_unreadable"] == 1
    times = shard_times(folder)
    prepare(folder)
    assert shard_times(folder) == times
    image.write_bytes(whole)
    prepare(folder)
    assert load_info(folder / "records").images == 6
