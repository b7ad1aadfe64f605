"""Images are saved in the format of the name's suffix, within what the format can hold."""

import numpy as np
import pytest
from PIL import Image

from htc_tf.errors import UserError
from htc_tf.visualization.saving import save


def test_an_unknown_suffix_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"x\.txt: name an image that ends in .png, .jpg, .jpeg, .webp"):
        save(np.zeros((1, 1, 3), np.uint8), tmp_path / "x.txt")


@pytest.mark.parametrize(("ending", "side"), [(".jpg", 65_500), (".jpeg", 65_500), (".webp", 16_383)])
def test_images_too_large_for_a_format_are_refused(tmp_path, ending, side):
    save(np.zeros((1, side, 3), np.uint8), tmp_path / f"x{ending}")
    with pytest.raises(UserError, match=rf"{side + 1} x 1 pixels, and {ending} holds at most {side} on a side"):
        save(np.zeros((1, side + 1, 3), np.uint8), tmp_path / f"x{ending}")


@pytest.mark.parametrize(("name", "form"), [("..jpg", "JPEG"), ("...png", "PNG"), ("..WEBP", "WEBP")])
def test_a_name_of_dots_and_a_suffix_is_saved_in_the_format_of_the_suffix(tmp_path, name, form):
    save(np.zeros((1, 1, 3), np.uint8), tmp_path / name)
    with Image.open(tmp_path / name) as image:
        assert image.format == form
