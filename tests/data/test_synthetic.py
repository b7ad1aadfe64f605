"""Synthetic images, boxes and records are as large as COCO's."""

import numpy as np
import pytest

from htc_tf.data.datasets import load_info, read_shard
from htc_tf.data.schema import unpack
from htc_tf.data.synthetic import MEDIAN_SCALE, OBJECTS, draw_boxes, draw_image, write_records


def test_boxes_are_as_large_as_objects_are():
    boxes = draw_boxes(2000, 800, 1344)
    sides = boxes[:, 2:] - boxes[:, :2]
    assert boxes.dtype == np.float32 and (boxes[:, :2] >= 0).all() and (boxes[:, 2:] <= [800.001, 1344.001]).all()
    assert sides.min() > 3.99
    assert np.median(np.sqrt(sides.prod(axis=1))) == pytest.approx(MEDIAN_SCALE, rel=0.1)
    half = draw_boxes(2000, 400, 672)
    assert np.median(np.sqrt((half[:, 2:] - half[:, :2]).prod(axis=1))) == pytest.approx(MEDIAN_SCALE / 2, rel=0.1)


def test_an_image():
    image = draw_image(40, 70)
    assert image.shape == (40, 70, 3) and image.dtype == np.uint8 and 30 < image.std() < 90
    assert (image == draw_image(40, 70)).all() and (image != draw_image(40, 70, seed=1)).any()


def test_records_are_a_data_set(tmp_path):
    write_records(tmp_path, images=2)
    info = load_info(tmp_path)
    assert (info.records, info.objects, info.num_classes, info.stuff.present) == (2, 2 * OBJECTS, 80, True)
    records = [unpack(serialized) for serialized in read_shard(info.shard_paths[0], 2)]
    # As heavy as COCO's, which take 160 kB on average.
    assert all(100e3 < len(record.image.encoded) < 250e3 and len(record.objects) == OBJECTS for record in records)
    assert records[0].image.encoded != records[1].image.encoded
