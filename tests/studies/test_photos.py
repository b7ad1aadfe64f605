"""The plan, the choice of annotations and the report of `tests.studies.photos`."""

from types import SimpleNamespace

from htc_tf import config
from tests.studies import photos, recorded


def entry(box, mask):
    metrics = {"bbox/AP": box / 2, "bbox/AP50": box, "segm/AP": mask / 2, "segm/AP50": mask}
    times = {"train": [300.0, 200.0], "evaluate": [20.0, 10.0]}
    return {"metrics": metrics, "losses": [[1200, 1.0]], "machine": "2 cores", **times}


def test_annotations_of_one_class_are_chosen():
    categories = [{"id": 7, "name": "train"}, {"id": 1, "name": photos.CLASS}]
    objects = [{"image_id": image, "category_id": kind} for image in (3, 5, 9) for kind in (1, 7)]
    data = {"images": [{"id": i} for i in (9, 3, 5)], "annotations": objects, "categories": categories}
    chosen = photos.choose(data, 2)
    assert [image["id"] for image in chosen["images"]] == [3, 5] and chosen["categories"] == categories[1:]
    assert chosen["annotations"] == [{"image_id": 3, "category_id": 1}, {"image_id": 5, "category_id": 1}]
    assert len(photos.choose(data)["annotations"]) == 3


def test_a_training_from_nothing_takes_no_weights():
    flags = {start: photos.plan(photos.Training(19, start, 0), ["STEPS=3"]) for start in photos.STARTS}
    assert flags["letters"] == [*flags["nothing"], f"--init_from={photos.WEIGHTS}"]
    assert "--gin_param=STEPS=3" in flags["nothing"] and (recorded.ROOT / photos.WEIGHTS).is_file()
    experiment, _ = config.load([photos.CONFIGURATION, photos.OVERRIDE], ["STEPS=3"])
    assert experiment.fit_to_records and experiment.batch_size == 4


def test_the_section(tmp_path):
    entries = {
        photos.Training(150, "letters", 0): entry(0.2, 0.18),
        photos.Training(150, "letters", 1): entry(0.22, 0.2),
        photos.Training(19, "nothing", 0): entry(0.05, 0.04),
    }
    flags = SimpleNamespace(images=photos.IMAGES, seeds=[0, 1], gin_param=[])
    text = "\n".join(photos.report(entries, tmp_path / "plot.png", flags))
    assert "--sample DIR --seeds 0 1`" in text and "Seeds 0, 1; ±" in text
    small = "| 19 | nothing | **0.025** | **0.050** | **0.020** | **0.040** | 0.040 |"
    large = "| **0.105** ± 0.007 | **0.210** ± 0.014 | **0.095** ± 0.007 | **0.190** ± 0.014 | 0.180, 0.200 |"
    assert f"{small}\n| 150 | letters {large}\n" in text
    assert "3 trainings and their evaluations took 960 CPU-seconds on 2 cores." in text
    assert (tmp_path / "plot.png").stat().st_size > 1000
