"""Necks refuse a backbone without their levels, or with levels that they would leave untrained."""

import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.fpn import FPN
from htc_tf.models.hrfpn import HRFPN
from htc_tf.models.simple_fpn import SimpleFPN


@pytest.mark.parametrize("neck", [FPN, HRFPN])
def test_a_backbone_of_one_level_is_refused(neck):
    with pytest.raises(UserError, match=rf"^{neck.__name__} needs C2 to C5.*has only C4: .*@SimpleFPN\(\)"):
        neck()({4: tf.zeros([1, 4, 4, 8])})


def test_a_simple_pyramid_refuses_a_backbone_of_several_levels():
    with pytest.raises(UserError, match=r"^SimpleFPN takes C4 alone.*C5.*@FPN\(\)"):
        SimpleFPN()({level: tf.zeros([1, 64 >> level, 64 >> level, 8]) for level in (2, 3, 4, 5)})
