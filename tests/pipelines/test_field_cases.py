"""Every kind of input ends as documented in docs/data.md, and so does a larger collection, if available."""

import importlib.util
import json
from pathlib import Path

import pytest

from htc_tf.data.datasets import coco_from_records, load_info
from pipelines import checks, coco_to_tfrecord, inspect_records, shards
from tests.pipelines import field_cases

DATA_CASES = Path(__file__).resolve().parents[3] / "shared" / "field_cases" / "data_cases.py"


@pytest.fixture
def prepare(monkeypatch, capsys):
    """prepare(arguments) -> (status, standard output, last line of standard error), without Beam's slow start."""

    def run(job, pending, options):
        for shard in pending:
            shards.write_shard(job, shard)

    def prepare(arguments):
        status = 0
        try:
            coco_to_tfrecord.main(arguments)
        except SystemExit as end:
            status = end.code
        out, err = capsys.readouterr()
        return status, out, [line for line in err.splitlines() if line.strip()][-1]

    monkeypatch.setattr(shards, "run", run)
    return prepare


@pytest.mark.parametrize("case", field_cases.CASES, ids=lambda case: case.name)
def test_every_kind_ends_as_documented(case, tmp_path, prepare, request):
    if case.name in ("case_differs", "unicode_form"):
        request.getfixturevalue("exact_names")
    arguments = field_cases.make(case, tmp_path)
    verdict, _, what = case.outcome.partition(": ")
    status, out, line = prepare(arguments)
    assert status == (2 if verdict == "refused" else 0), line
    if verdict == "refused":
        assert line.startswith("error: ") and what in line
        assert "coco.json" in line
        assert len(line) < 1000 and "{'" not in line and "Traceback" not in line
        return
    info = load_info(tmp_path / "records")
    rows = [json.loads(row) for row in (tmp_path / "records" / "rejected.jsonl").read_text().splitlines()]
    ground_truth = coco_from_records(info)
    assert len(ground_truth["annotations"]) == info.objects
    if verdict == "left out":
        assert {row["reason"] for row in rows} == {what}
        assert f": {what}: " in out
    else:
        assert not rows and info.images == 3
        for row in ground_truth["annotations"] if case.name not in ("outside", "below_one_pixel") else ():
            assert tuple(row["bbox"]) == pytest.approx(field_cases.BOXES[row["category_id"] in (2, 907)], abs=1e-3)
    if verdict == "repaired":
        assert info.counters[what] > 0 and what in checks.REPAIRS
        assert f"\n  {what}" in out
    if verdict == "warning":
        assert any(line.startswith("warning: ") and what in line for line in out.splitlines())
    if verdict == "works":
        assert "warning: " not in out and "repaired                           0\n" in out
    inspect_records.main([f"--records={tmp_path / 'records'}", "--verify"])


# For each case of the larger collection, part of the error line or of the summary; "" if it works without any warning.
EXPECTED = {
    "a00_sound": "",
    "a01_ids_digit_strings": "numbers_converted",
    "a02_image_id_string_in_annotations": "numbers_converted",
    "a03_ids_uuid": "image_ids_renumbered",
    "a04_ids_float": "numbers_converted",
    "a05_ids_above_2_53": "",
    "a06_ids_above_int64": "error: no integer id",
    "a07_ids_from_zero": "ids_renumbered",
    "a08_annotation_ids_per_image": "ids_renumbered",
    "a10_image_id_repeated": "error: id 2 belongs to img_2.jpg and to img_3.jpg",
    "a11_file_name_repeated": "warning: 2 images share files",
    "a13_image_id_key_missing": "error: no integer image_id",
    "b01_category_ids_zero_and_gaps": "warning: 1 of 3 classes have no object: nut",
    "b02_roboflow_placeholder": "warning: 1 of 3 classes have no object: nuts-and-cells",
    "b03_category_ids_strings": "numbers_converted",
    "b04_category_names_twice": "warning: 2 classes are named 'cell'",
    "b06_categories_empty": "error: is empty",
    "b07_categories_missing": "error: no list 'categories'",
    "b08_category_names_unicode": "",
    "b09_lvis": "file_names_from_url",
    "b10_lvis_with_file_name": "warning: 1202 of 1203 classes have no object",
    "b11_extras": "",
    "b12_single_class": "",
    "c01_polygon_flat": "polygons_nested",
    "c02_empty_object": "left out: img_1.jpg: annotation 1",
    "c03_half_without_masks": "error: 3 of 6 annotations were rejected (mask_missing 3)",
    "c04_no_masks_at_all": "warning: no annotation has a segmentation",
    "c05_polygon_of_two_points": "left out: img_1.jpg: annotation 1: polygon_malformed",
    "c06_polygon_of_pairs": "error: a list of [x, y] points",
    "c07_polygon_nested_too_deep": "error: one too deep",
    "c08_rle_uncompressed": "",
    "c09_rle_compressed": "",
    "c10_all_crowd": "warning: all 6 objects are crowd regions",
    "c13_rle_size_swapped": "error: it must be [height, width]",
    "c15_rle_in_list": "run_lengths_unwrapped",
    "c16_rle_too_long": "left out: img_1.jpg: annotation 1: rle_malformed",
    "c17_polygon_strings": "error: numbers are strings",
    "c18_polygon_nan_null": "left out: img_1.jpg: annotation 2: polygon_malformed",
    "c19_polygon_with_hole": "",
    "c20_multi_part_and_specks": "polygons_dropped",
    "c21_tiny": "masks_empty",
    "c22_outside_a_little": "boxes_clipped",
    "c23_outside_far": "left out: img_1.jpg: annotation 1: polygon_far_outside",
    "c25_bbox_corners": "error: it looks as if bbox is [x1, y1, x2, y2]",
    "c26_bbox_missing": "boxes_computed",
    "c28_bbox_strings": "error: contains strings",
    "c29_no_area_no_iscrowd": "areas_computed",
    "c31_annotations_dict": "lists_from_dicts",
    "c32_polygon_shapes": "",
    "d01_names": "",
    "d02_backslashes": "file_names_corrected",
    "d03_absolute": "file_names_relative",
    "d04_dot_and_parent": "left out: ../images/img_2.jpg: image_outside_root",
    "d05_url_encoded": "error: is absolute, and not inside --images",
    "d06_case_differs": "file_names_corrected",
    "d08_symlinks_to_cache": "error: image_outside_root",
    "d09_images_folder_is_link": "",
    "d11_file_name_key": "error: rename 'filename'",
    "e01_sizes_missing": "error: no height, no width",
    "e02_sizes_odd": "error: height is -1, width is -1",
    "e03_sizes_swapped": "error: image_size_differs",
    "e04_sizes_resized": "error: image_size_differs",
    "e05_exif_6_upright_truth": "images_turned",
    "e06_exif_6_raw_truth": "exif_ignored",
    "e07_exif_3": "images_turned",
    "e09_orientation_png_webp_tiff": "images_turned",
    "f01_png_kinds": "images_dark",
    "f02_other_formats": "images_converted",
    "f03_unreadable_formats": "error: image_unreadable",
    "f04_damaged_jpeg": "left out: truncated.jpg: image_unreadable",
    "f05_thin": "warning: 1 of 2 classes have no object",
    "g01_bom": "file_recoded",
    "g02_utf16": "file_recoded",
    "g03_latin1": "error: is not UTF-8",
    "g04_cut": "error: it was cut",
    "g05_gz": "file_unpacked",
    "g06_zip": "error: unpack it first",
    "g07_nan_area": "areas_computed",
    "g08_labelme_json": "error: it is not a COCO annotation file",
    "g09_json_lines": "error: contains several JSON values",
    "g10_results_list": "error: it holds a list",
    "g11_image_info_test": "error: a test set",
    "g13_background_only": "warning: no record contains an object",
    "g14_no_images": "error: 'images' is empty",
    "g15_some_background": "",
    "g16_two_files": "annotations_repeated",
    "g18_captions": "error: no list 'categories'",
    "g20_one_bad_of_hundred": "left out: img_1.jpg: annotation 1: polygon_malformed",
    "h01_three_thousand_objects": "",
    "i01_panoptic_sound": "",
    "i02_panoptic_folder_missing": "error: no such folder",
    "i03_panoptic_category_zero": "error: category id 0 is out of range",
    "i04_panoptic_image_id_string": "error: no integer image_id",
    "i05_stuff_names_and_colours": "error: stuff_missing",
}


@pytest.fixture(scope="session")
def data_cases():
    if not DATA_CASES.exists():
        pytest.skip("the collection of field cases is not beside this checkout")
    spec = importlib.util.spec_from_file_location("data_cases", DATA_CASES)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CASES


@pytest.mark.parametrize("name", EXPECTED)
def test_every_case_of_the_collection(name, data_cases, tmp_path, prepare):
    setup = data_cases[name](tmp_path)
    arguments = [
        f"--annotations={tmp_path / setup.get('annotations', 'coco.json')}",
        f"--output={tmp_path / 'records'}",
    ]
    arguments += [f"--images={tmp_path / setup.get('images', 'images')}"]
    arguments += [flag.format(folder=tmp_path) for flag in setup.get("flags", [])]
    expected = EXPECTED[name]
    status, out, line = prepare(arguments)
    if expected.startswith("error: "):
        assert status == 2 and expected.removeprefix("error: ") in line
        assert line.startswith("error: ") and len(line) < 1000 and "{'" not in line
        return
    assert status == 0, line
    assert expected in out
    if not expected:
        assert "rejected images                    0\n" in out and "left out" not in out and "warning" not in out
    inspect_records.main([f"--records={tmp_path / 'records'}", "--verify"])


def test_every_case_of_the_collection_is_expected(data_cases):
    assert list(data_cases) == list(EXPECTED)
