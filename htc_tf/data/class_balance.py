"""Class balance: repeat factor sampling, which repeats images of rare classes (LVIS, arXiv:1908.03195, section 3.4).

With f the fraction of images that contain a class, the class has the factor max(1, sqrt(t / f)), and an image has the
largest factor of its classes. An image of factor 2.3 occurs twice in an epoch, and three times in three epochs of ten.
"""

import logging

import gin
import numpy as np
import tensorflow as tf
from tqdm import tqdm

from htc_tf.data import schema
from htc_tf.data.record_walk import Damaged, open_shard, walk
from htc_tf.errors import UserError
from htc_tf.ranges import check_ranges, number

logger = logging.getLogger(__name__)

_KEYS = {field.name: field.key for field in schema.OBJECT_FIELDS}


@gin.register
@check_ranges(
    threshold=number(above=0, maximum=1),
)
class ClassBalance:
    """Repeat factors of the images of a dataset."""

    def __init__(self, threshold=0.001):
        """Initializes the sampler.

        Args:
            threshold: t, the fraction of images below which a class is rare; 0.001 in the paper.
        """
        self.threshold = threshold

    def repeats(self, info):
        """Reads the classes of all records, without their images.

        Args:
            info: DatasetInfo.
        Returns:
            A function of a serialized record [] string and a random number [] in [0, 1), used for rounding, that
            returns how often the record occurs in the epoch, [] int64.
        Raises:
            UserError: A shard is damaged.
        """
        images = find_classes(info)
        factors = self.factors(images, info)
        total = sum(max((factors[k] for k in classes), default=1.0) for classes in images)
        logger.info(
            "class balance: %d of %d classes are rare, repeated up to %.1f times; an epoch has %d images instead of %d",
            *(np.sum(factors > 1), len(factors), factors.max(initial=1), round(total), len(images)),
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

    def factors(self, images, info):
        """Returns the repeat factors of the classes, [K], given the classes of all images."""
        count = np.bincount([k for classes in images for k in classes], minlength=info.num_classes)
        fraction = count / max(len(images), 1)
        ratio = np.divide(self.threshold, fraction, out=np.ones_like(fraction), where=count > 0)
        return np.sqrt(np.maximum(1.0, ratio))


def find_classes(info):
    """Returns the set of class indices of each image of a dataset; crowd regions do not count.

    Raises:
        UserError: A shard is damaged.
    """
    indices = {category: index for index, category in enumerate(info.category_ids)}
    images = []
    with tqdm(total=info.records, desc="classes", unit="image") as progress:
        for path in info.shard_paths:
            try:
                for record in walk(open_shard(path)):
                    objects = zip(record.labels, record.crowd, strict=True)
                    images.append({indices[label] for label, crowd in objects if not crowd and label in indices})
                    progress.update()
            except Damaged as error:
                raise UserError(f"{path} is damaged: {error}; prepare the data again") from None
            except (OSError, tf.errors.OpError) as error:
                raise UserError(f"{path} cannot be read: {error}") from None
    return images
