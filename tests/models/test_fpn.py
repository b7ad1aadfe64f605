"""Necks refuse a backbone without their levels."""

import pytest
import tensorflow as tf

from htc_tf.errors import UserError
from htc_tf.models.fpn import FPN
from htc_tf.models.hrfpn import HRFPN


@pytest.mark.parametrize("neck", [FPN, HRFPN])
def test_a_backbone_of_one_level_is_refused(neck):
    with pytest.raises(UserError, match=rf"^{neck.__name__} needs C2 to C5.*has only C4: .*@SimpleFPN\(\)"):
        neck()({4: tf.zeros([1, 4, 4, 8])})
