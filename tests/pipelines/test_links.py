"""Symbolic links among images and stuff maps: refused if they leave their folder, read with --follow_links."""

import pytest

from htc_tf.data.datasets import load_info
from pipelines import coco_to_tfrecord
from tests.pipelines.tiny_coco import arguments, check_ground_truth, contents, edit, prepare, records, refuse, report


@pytest.fixture
def linked(tiny):
    """The tiny dataset in a cache as of a hub: every image and stuff map is a link to a blob elsewhere."""
    prepare(tiny, "plain", stuff=True)
    (tiny / "blobs").mkdir()
    for name in ("images", "stuff"):
        for path in sorted((tiny / name).iterdir()):
            path.symlink_to(path.rename(tiny / "blobs" / f"{name}-{path.stem}"))
    return tiny


def follow(folder, output="records", stuff=True):
    coco_to_tfrecord.main([*arguments(folder, output, stuff), "--follow_links"])
    return load_info(folder / output)


def test_links_to_elsewhere(linked, capsys):
    line = refuse(capsys, linked)
    assert "image_outside_root 7" in line and "--follow_links reads links to files elsewhere" in line
    info = follow(linked, "followed")
    check_ground_truth(info, linked / "instances.json")
    # Stuff maps too; the records are those of the files themselves.
    assert records(info) == records(load_info(linked / "plain"))
    before = contents(linked / "followed")
    follow(linked, "followed")
    assert contents(linked / "followed") == before


def test_the_option_of_a_finished_folder_may_not_change(linked, capsys):
    follow(linked)
    assert "--follow_links was True, is not given" in refuse(capsys, linked, f"--stuff={linked / 'stuff'}")


def test_links_to_a_folder_and_to_nothing(tiny):
    (tiny / "images").rename(tiny / "elsewhere")
    (tiny / "elsewhere" / "000.jpg").unlink()
    (tiny / "elsewhere" / "000.jpg").symlink_to(tiny / "nowhere.jpg")
    (tiny / "images").mkdir()
    (tiny / "images" / "sub").symlink_to(tiny / "elsewhere")

    def move(content):
        for row in content["images"]:
            row["file_name"] = f"sub/{row['file_name']}"

    edit(tiny, move)
    info = follow(tiny, stuff=False)
    assert info.images == 6
    (row,) = report(tiny)[1]
    assert row["reason"] == "image_missing" and "which does not exist" in row["detail"]
