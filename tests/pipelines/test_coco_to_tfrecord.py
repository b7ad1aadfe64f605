"""Preparation from the command line to the records: a tiny dataset drawn here, and real COCO if available."""

import json
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import numpy as np
import PIL.Image
import pytest
import tensorflow as tf
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from apache_beam.testing import test_pipeline
from apache_beam.testing.util import assert_that, equal_to
from pycocotools import mask as coco_mask

from htc_tf.data.datasets import coco_from_records, load_info, read_shard
from htc_tf.data.schema import MASK_PNG, unpack
from pipelines import coco_to_tfrecord, shards, sources
from pipelines.plan import Options, make_plan
from tests.pipelines.tiny_coco import SIZES, arguments, check_ground_truth, contents, edit, prepare, records, refuse

ROOT = Path(__file__).resolve().parents[2]


def test_records_equal_the_annotation_file(tiny):
    info = prepare(tiny, shards=3, stuff=True)
    check_ground_truth(info, tiny / "instances.json")
    assert (info.class_names, info.category_ids, info.num_classes) == (("dog", "cat"), (2, 9), 2)
    assert (info.images, info.records, info.objects, info.crowd) == (7, 7, 21, 7)
    assert (info.masks, info.stuff.present, info.stuff.labels) == (True, True, 6)
    assert sorted(shard.records for shard in info.shards) == [2, 2, 3]
    assert info.counters["images_without_objects"] == 1
    for record in records(info):
        name = record.image.filename
        assert record.image.encoded == (tiny / "images" / name).read_bytes()
        assert record.semantic == (tiny / "stuff" / name.replace("jpg", "png")).read_bytes()
        assert all(item.text == {9: "cat", 2: "dog"}[item.label] for item in record.objects)


def test_real_coco(coco_sample, tmp_path):
    annotations = coco_sample / "annotations" / "instances_val2017.json"
    words = [f"--annotations={annotations}", f"--images={coco_sample / 'val2017'}", f"--output={tmp_path}"]
    coco_to_tfrecord.main(words)
    info = load_info(tmp_path)
    assert (info.images, info.objects, info.crowd, info.num_classes) == (148, 1225, 15, 80)
    assert info.counters["images_without_objects"] == 2
    check_ground_truth(info, annotations)


def test_real_stuff_maps(coco_sample, tmp_path):
    folder = coco_sample / "panoptic"
    annotations = folder / "annotations" / "instances_val2017.json"
    words = [f"--annotations={annotations}", f"--images={folder / 'val2017'}", f"--output={tmp_path}"]
    coco_to_tfrecord.main([*words, f"--stuff={folder / 'stuffthingmaps' / 'val2017'}", "--stuff_labels=183"])
    info = load_info(tmp_path)
    assert (info.stuff.present, info.stuff.labels, info.images) == (True, 183, 3)
    for record in records(info):
        labels = tf.io.decode_png(record.semantic, channels=1)
        assert labels.shape == (record.image.height, record.image.width, 1)


def test_same_bytes_in_this_process_and_in_several(tiny):
    prepare(tiny, "one", shards=3)
    workers = ["--direct_running_mode=multi_processing", "--direct_num_workers=2"]
    command = [sys.executable, "-m", "pipelines.coco_to_tfrecord", *arguments(tiny, "two", shards=3), *workers]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "7/7" in done.stderr and "image/s" in done.stderr
    assert contents(tiny / "one") == contents(tiny / "two")


def test_the_seed_decides_the_order(tiny):
    orders = [[record.image.source_id for record in records(prepare(tiny, f"s{s}", seed=s))] for s in (0, 1)]
    assert orders[0] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(100, 107))


def test_a_rerun_writes_only_unfinished_shards(tiny):
    prepare(tiny, shards=3)
    folder = tiny / "records"
    before = contents(folder)
    (folder / "00001-of-00003.tfrecord").unlink()
    (folder / "dataset_info.json").unlink()
    (folder / f"00002-of-00003.tfrecord.tmp-{'0' * 32}").write_bytes(b"half")
    untouched = (folder / "00000-of-00003.tfrecord").stat().st_mtime_ns
    prepare(tiny, shards=3)
    assert contents(folder) == before
    assert (folder / "00000-of-00003.tfrecord").stat().st_mtime_ns == untouched


def test_a_rerun_finds_images_that_were_missing(tiny, capsys):
    (tiny / "images" / "003.jpg").rename(tiny / "003.jpg")
    assert "image_missing 1" in refuse(capsys, tiny, max_bad_fraction=0)
    assert not (tiny / "records" / "dataset_info.json").exists()
    (tiny / "003.jpg").rename(tiny / "images" / "003.jpg")
    assert prepare(tiny, max_bad_fraction=0).images == 7


def test_a_rerun_finds_missing_images_whose_names_differ(tiny, capsys):
    """Names that are corrected, or taken from a URL, depend on the files that exist."""

    def rename(content):
        content["images"][3]["file_name"] = "more\\003.jpg"
        del content["images"][4]["file_name"]
        content["images"][4]["coco_url"] = "http://host/more/004.jpg"

    edit(tiny, rename)
    for name in ("003.jpg", "004.jpg"):
        (tiny / "images" / name).rename(tiny / name)
    assert prepare(tiny, shards=3).images == 5
    before = contents(tiny / "records")
    assert prepare(tiny, shards=3).images == 5 and contents(tiny / "records") == before
    (tiny / "images" / "more").mkdir()
    for name in ("003.jpg", "004.jpg"):
        (tiny / name).rename(tiny / "images" / "more" / name)
    names = {record.image.filename for record in records(prepare(tiny, shards=3))}
    assert len(names) == 7 and {"more/003.jpg", "more/004.jpg"} < names


def test_a_folder_of_other_records_is_unchanged(tiny, capsys):
    prepare(tiny, shards=3)
    before = contents(tiny / "records")
    line = refuse(capsys, tiny, shards=4)
    assert "shards was 3, is 4" in line and str(tiny / "records") in line
    assert contents(tiny / "records") == before


def test_boxes_only(tiny):
    def drop_masks(content):
        for row in content["annotations"]:
            del row["segmentation"]

    info = prepare(edit(tiny, drop_masks))
    assert not info.masks and not info.stuff.present and info.objects == 21
    assert all("segmentation" not in row for row in coco_from_records(info)["annotations"])


def test_missing_inputs_and_mistaken_flags(tiny, capsys):
    assert "knows --ouput" in refuse(capsys, tiny, "--ouput=there")
    assert "knows there" in refuse(capsys, tiny, "there")
    assert "--direct_num_workers" in refuse(capsys, tiny, "--num_workers=2")
    for name in ("annotations", "images", "stuff", "output"):  # an unset variable of a shell
        assert f"--{name} is empty" in refuse(capsys, tiny, f"--{name}=")
    assert "--shards 8 is more than the 7 images" in refuse(capsys, tiny, shards=8)
    assert "from 1 to 178956970" in refuse(capsys, tiny, max_pixels=178_956_971)
    assert "no such folder" in refuse(capsys, tiny, f"--stuff={tiny / 'nowhere'}")
    assert "no such folder" in refuse(capsys, tiny, f"--images={tiny / 'nowhere'}")
    (tiny / "instances.json").unlink()
    assert "no such file" in refuse(capsys, tiny)
    (tiny / "instances.json").mkdir()
    assert "is a folder: give the JSON file in it" in refuse(capsys, tiny)
    assert "no file matches this pattern" in refuse(capsys, tiny, f"--annotations={tiny}/*.jsonl")
    (tiny / "again").symlink_to(tiny)  # two links to outer folders, through which ** does not go round
    (tiny / "once_more").symlink_to(tiny)
    assert "no file matches this pattern" in refuse(capsys, tiny, f"--annotations={tiny}/**/x.jsonl")
    assert not list((tiny / "records").glob("*.tfrecord"))


def test_the_beam_step(tiny):
    output = str(tiny / "records")
    annotations = [str(tiny / "instances.json")]
    folders = sources.find_folders([str(tiny / "images")], annotations)
    plan = make_plan(annotations, folders, output, Options(shards=3))
    job = shards.Job(plan, str(tiny / "images"), None, output, "nowhere")
    pipeline = test_pipeline.TestPipeline(runner=FnApiRunner())
    written = pipeline | beam.Create([0, 2]) | shards.WriteShards(job)
    assert_that(written, equal_to(["00000-of-00003.tfrecord", "00002-of-00003.tfrecord"]))
    result = pipeline.run()
    result.wait_until_finish()
    metrics = result.metrics().query()
    counted = {row.key.metric.name: row.committed for row in metrics["counters"]}
    assert counted["images"] == sum(plan.images[shard] for shard in (0, 2))
    sidecars = shards.read_sidecars(output, plan)
    assert [sidecar is not None for sidecar in sidecars] == [True, False, True]
    sizes = [int(size) for sidecar in sidecars if sidecar for size in sidecar["objects_per_image"]]
    (spread,) = (row.committed for row in metrics["distributions"] if row.key.metric.name == "objects_per_image")
    assert (spread.count, spread.sum) == (counted["images"], counted["objects"])
    assert (spread.min, spread.max) == (min(sizes), max(sizes))


def test_decoding_headers_only_gives_the_same_records(tiny):
    prepare(tiny, "full", shards=3)
    prepare(tiny, "header", shards=3, decode="header")
    names = [f"{shard:05d}-of-00003.tfrecord" for shard in range(3)]
    assert [contents(tiny / "full")[name] for name in names] == [contents(tiny / "header")[name] for name in names]


def test_model_gardens_masks_beside_the_run_lengths(tiny):
    prepare(tiny, "rle")
    info = prepare(tiny, "png", masks="png")
    check_ground_truth(info, tiny / "instances.json")
    for path, shard in zip(info.shard_paths, info.shards, strict=True):
        for serialized in read_shard(path, shard.records):
            check_mask_pngs(serialized)
    assert records(info) == records(load_info(tiny / "rle"))


def check_mask_pngs(serialized):
    """Compares the PNGs, decoded as by Model Garden's parser, with pycocotools' masks of the run lengths."""
    record = unpack(serialized)
    feature = tf.train.Example.FromString(serialized).features.feature
    pngs = feature[MASK_PNG.key].bytes_list.value
    assert len(pngs) == len(record.objects)
    size = [record.image.height, record.image.width]
    for png, item in zip(pngs, record.objects, strict=True):
        mask = tf.io.decode_png(png, channels=1)[..., 0]
        np.testing.assert_array_equal(mask, coco_mask.decode({"size": size, "counts": item.mask_rle}))


def test_model_gardens_own_decoder_reads_the_records(tiny):
    decoders = pytest.importorskip("official.vision.dataloaders.tf_example_decoder", reason="tf-models-official")
    info = prepare(tiny, masks="png")
    decoder = decoders.TfExampleDecoder(include_mask=True)
    for path, shard in zip(info.shard_paths, info.shards, strict=True):
        for serialized in read_shard(path, shard.records):
            image, objects, _ = unpack(serialized)
            decoded = decoder.decode(tf.constant(serialized))
            assert decoded["source_id"] == str(image.source_id)
            assert decoded["image"].shape == (image.height, image.width, 3)
            boxes = [(item.ymin, item.xmin, item.ymax, item.xmax) for item in objects]
            np.testing.assert_array_equal(decoded["groundtruth_boxes"], np.float32(boxes).reshape(-1, 4))
            np.testing.assert_array_equal(decoded["groundtruth_classes"], [item.label for item in objects])
            np.testing.assert_array_equal(decoded["groundtruth_is_crowd"], [bool(item.is_crowd) for item in objects])
            np.testing.assert_array_equal(decoded["groundtruth_area"], [item.area for item in objects])
            masks = decoded["groundtruth_instance_masks"].numpy().reshape(-1, image.height, image.width)
            size = [image.height, image.width]
            expected = [coco_mask.decode({"size": size, "counts": item.mask_rle}) for item in objects]
            np.testing.assert_array_equal(masks, np.reshape(expected, (-1, *size)))


def test_no_masks_if_none_are_requested(tiny):
    info = prepare(tiny, masks="none")
    assert not info.masks and info.objects == 21
    assert all("segmentation" not in row for row in coco_from_records(info)["annotations"])


def make_panoptic(folder):
    """Writes a panoptic file and PNGs that are equivalent to the tiny stuff maps: 5 where they are not ignored."""
    (folder / "panoptic").mkdir()
    annotations = []
    for index, (height, width) in enumerate(SIZES):
        colors = np.zeros((height, width, 3), np.uint8)
        colors[4:, :, 1] = index + 1
        PIL.Image.fromarray(colors).save(folder / "panoptic" / f"{index:03d}.png")
        segments = [{"id": 256 * (index + 1), "category_id": 6}]
        annotations.append({"image_id": 100 + index, "file_name": f"{index:03d}.png", "segments_info": segments})
    content = {"annotations": annotations, "categories": [{"id": 6, "name": "sky"}]}
    (folder / "panoptic.json").write_text(json.dumps(content))
    return content


def test_panoptic_segments_make_the_same_maps(tiny):
    make_panoptic(tiny)
    folder = prepare(tiny, "folder", stuff=True)
    drawn = prepare(edit(tiny, lambda content: None), "drawn", stuff="panoptic.json")
    assert drawn.stuff == folder.stuff and drawn.stuff.labels == 6
    assert drawn.inputs.keys() == {"instances.json", "stuff/panoptic.json"}
    for one, other in zip(records(drawn), records(folder), strict=True):
        assert one._replace(semantic=b"") == other._replace(semantic=b"")
        np.testing.assert_array_equal(tf.io.decode_png(one.semantic), tf.io.decode_png(other.semantic))


def test_images_that_the_panoptic_file_lacks_are_named(tiny, capsys):
    content = make_panoptic(tiny)
    content["annotations"].pop(2)
    (tiny / "panoptic.json").write_text(json.dumps(content))
    line = refuse(capsys, tiny, f"--stuff={tiny / 'panoptic.json'}", max_bad_fraction=0)
    assert "stuff_missing 1" in line and "002.jpg" in line and "panoptic" in line
    (tiny / "panoptic.json").unlink()
    assert "no such file" in refuse(capsys, tiny, f"--stuff={tiny / 'panoptic.json'}")
