"""Class balance: repeat factor sampling, which repeats images of rare classes (LVIS, arXiv:1908.03195, section 3.4).

With f the fraction of images that contain a class, the class has the factor max(1, sqrt(t / f)), and an image has the
largest factor of its classes. An image of factor 2.3 occurs twice in an epoch, and three times in three epochs of ten.
"""

import logging
from collections.abc import Callable
from typing import NamedTuple

import gin
import numpy as np
import tensorflow as tf

from htc_tf.data import schema, shard_index
from htc_tf.data.datasets import DatasetInfo
from htc_tf.progress import progress_bar
from htc_tf.ranges import check_ranges, number

logger = logging.getLogger(__name__)

_KEYS = {field.name: field.key for field in schema.OBJECT_FIELDS}


class Occurrences(NamedTuple):
    """Which of n images contain which classes, as p pairs; each pair occurs once, and crowd regions do not count."""

    images: int  # n
    owners: np.ndarray  # [p] int64, position of the image
    classes: np.ndarray  # [p] int64, 0 ... K - 1


@gin.register
@check_ranges(
    threshold=number(above=0, maximum=1),
)
class ClassBalance:
    """Repeat factors of the images of a dataset."""

    def __init__(self, threshold: float = 0.001) -> None:
        """Initializes the sampler.

        Args:
            threshold: t, the fraction of images below which a class is rare; 0.001 in the paper.
        """
        self.threshold = threshold

    def repeats(self, info: DatasetInfo) -> Callable[[tf.Tensor, tf.Tensor], tf.Tensor]:
        """Reads the classes of all records, from the shards' index files if there are any.

        Args:
            info: DatasetInfo.
        Returns:
            A function of a serialized record [] string and a random number [] in [0, 1), used for rounding, that
            returns how often the record occurs in the epoch, [] int64.
        Raises:
            UserError: A shard is damaged.
        """
        found = find_classes(info)
        factors = self.factors(found, info)
        of_images = np.ones(found.images)
        np.maximum.at(of_images, found.owners, factors[found.classes])
        logger.info(
            "class balance: %d of %d classes are rare, repeated up to %.1f times; an epoch has %d images instead of %d",
            *(np.sum(factors > 1), len(factors), factors.max(initial=1), round(of_images.sum()), found.images),
        )
        categories = tf.constant(info.category_ids, tf.int64)

        def repeat(serialized, chance):
            names = ("label", "is_crowd")
            wanted = {_KEYS[name]: schema.FEATURES[_KEYS[name]] for name in names}
            record = tf.io.parse_single_example(serialized, wanted)
            labels, crowd = (record[_KEYS[name]] for name in names)  # [n] each
            # [K], True for the classes of the image; crowd regions do not count.
            present = tf.reduce_any((labels[:, None] == categories) & (crowd == 0)[:, None], axis=0)
            factor = tf.reduce_max(tf.where(present, tf.constant(factors, tf.float32), 1.0))
            return tf.cast(tf.floor(factor + chance), tf.int64)

        return repeat

    def factors(self, found: Occurrences, info: DatasetInfo) -> np.ndarray:
        """Returns the repeat factors of the classes, [K], given the Occurrences of a dataset."""
        count = np.bincount(found.classes, minlength=info.num_classes)
        fraction = count / max(found.images, 1)
        ratio = np.divide(self.threshold, fraction, out=np.ones_like(fraction), where=count > 0)
        return np.sqrt(np.maximum(1.0, ratio))


def find_classes(info: DatasetInfo) -> Occurrences:
    """Returns the Occurrences of the classes of a dataset.

    Raises:
        UserError: A shard is damaged.
    """
    images, pairs = 0, [np.zeros([2, 0], np.int64)]
    with progress_bar(total=info.records, desc="classes", unit="image") as progress:
        for _, index in shard_index.read_all(info):
            classes = index.classes(info.category_ids)
            counted = (classes >= 0) & ~index.crowd
            number = max(info.num_classes, 1)
            owned = np.unique((images + index.owners[counted]) * number + classes[counted])
            pairs.append(np.stack(np.divmod(owned, number)))
            images += len(index.counts)
            progress.update(len(index.counts))
    return Occurrences(images, *np.concatenate(pairs, axis=1))
