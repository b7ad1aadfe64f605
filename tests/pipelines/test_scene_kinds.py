"""Every kind of scene: masks, labels and semantic map agree, and a class of `contexts` is that of the ground below."""

import json

import numpy as np
import pytest

from htc_tf.errors import UserError
from pipelines import contexts, letters, scenes, shapes, surfaces

KINDS = ("shapes", "letters", "contexts")


@pytest.fixture(scope="module", params=KINDS)
def drawn(request):
    """The name of a kind and twelve of its scenes."""
    return request.param, [shapes.make_scene(3, "train2017", index, kind=request.param) for index in range(12)]


def test_masks_and_maps_agree(drawn):
    kind, found = drawn
    for scene in found:
        masks = np.array([thing.mask for thing in scene.things] or [np.zeros_like(scene.semantic, bool)])
        assert masks.sum(0).max() <= 1, "each pixel belongs to one thing at most"
        for thing in scene.things:
            assert (scene.semantic[thing.mask] == thing.label).all() and not (thing.mask & ~thing.whole).any()
        ground = scene.semantic[~masks.any(0)]
        assert ground[ground != scenes.UNLABELED].min() >= len(shapes.SCENES[kind].THINGS)
        assert scene.image.shape == (*scene.semantic.shape, 3) and scene.image.dtype == np.uint8
    assert len({thing.label for scene in found for thing in scene.things}) > len(shapes.SCENES[kind].THINGS) // 2


def test_a_seed_draws_the_same_again(drawn):
    kind, found = drawn
    again = shapes.make_scene(3, "train2017", 5, kind=kind)
    assert (again.image == found[5].image).all() and (again.semantic == found[5].semantic).all()
    assert not np.array_equal(found[4].image, found[5].image)


def test_classes_of_contexts_are_those_of_the_ground():
    stripes, dots, plain = (len(scenes.THINGS) + surfaces.TEXTURES.index("stripes"), len(scenes.THINGS) + 2, 255)
    assert surfaces.TEXTURES[2] == "dots"
    star = contexts.OUTLINES.index("star")
    grounds = ([stripes, stripes, dots], [dots, dots, stripes, plain, plain, plain], [plain])
    labels = [contexts.name(star, np.uint8(ground)) for ground in grounds]
    assert [contexts.THINGS[label] for label in labels] == ["star on lines", "star on grains", "star on lines"]


def test_things_of_contexts_lie_on_the_ground_of_their_class():
    """Seen from the outside: the labeled ground around most shapes is of the kind that their class names."""
    right = wrong = 0
    for index in range(20):
        scene = shapes.make_scene(5, "train2017", index, kind="contexts")
        for thing in scene.things:
            y, x = np.nonzero(thing.whole)
            window = scene.semantic[max(y.min() - 3, 0) : y.max() + 4, max(x.min() - 3, 0) : x.max() + 4]
            around = window[(window >= len(scenes.THINGS)) & (window != scenes.UNLABELED)] - len(scenes.THINGS)
            if around.size and len(set(around)) == 1:
                lines = surfaces.TEXTURES[around[0]] in contexts.LINES
                right, wrong = right + (lines == (thing.label % 2 == 0)), wrong + (lines != (thing.label % 2 == 0))
    assert right > 50 and wrong < right / 20


@pytest.mark.parametrize("kind", KINDS)
def test_every_shape_of_a_scene_is_of_the_chosen_classes(kind, monkeypatch):
    painted = []
    module = shapes.SCENES[kind]
    monkeypatch.setattr(module, "paint", lambda rng, canvas, coverage: painted.append(coverage))
    found = [shapes.make_scene(5, "train2017", index, [1, 2], kind) for index in range(20)]
    things = [thing for scene in found for thing in scene.things]
    assert {thing.label for thing in things} == {1, 2}
    if kind != "shapes":  # whose crowds are painted in many pieces
        assert len(painted) == len(things)


@pytest.mark.parametrize("letter", letters.THINGS)
def test_letters_are_told_apart(letter):
    """A letter's picture differs from every other one's by a fifth of its ink or more, mirrored or not."""
    ink = {name: np.asarray(letters.render(name), float) for name in letters.THINGS}
    for name, other in ink.items():
        if name != letter:
            for image in (other, other[:, ::-1]):
                assert np.abs(ink[letter] - image).sum() > 0.2 * ink[letter].sum(), name


def test_the_command_draws_letters(tmp_path, monkeypatch):
    flags = ["--output", str(tmp_path), "--train", "6", "--val", "2", "--scenes", "letters", "--classes", "R", "S"]
    monkeypatch.setattr("sys.argv", ["shapes", *flags, "--workers", "2"])
    shapes.main()
    data = json.loads((tmp_path / "annotations" / "instances_train2017.json").read_text())
    assert [category["name"] for category in data["categories"]] == ["R", "S"]
    assert {row["category_id"] for row in data["annotations"]} <= {category["id"] for category in data["categories"]}


def test_ids_of_annotations_are_unique():
    assert max(scenes.MAX_THINGS + 1, contexts.MAX_THINGS) < shapes.IDS_PER_IMAGE


def test_a_class_of_another_kind_is_refused(tmp_path, monkeypatch, capsys):
    flags = ["--output", str(tmp_path), "--scenes", "letters", "--classes", "circle"]
    monkeypatch.setattr("sys.argv", ["shapes", *flags])
    with pytest.raises((SystemExit, UserError)):
        shapes.main()
    assert "not a class of --scenes letters" in capsys.readouterr().err and not list(tmp_path.iterdir())
