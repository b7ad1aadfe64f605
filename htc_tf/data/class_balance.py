"""Images of rare classes come more often: repeat factor sampling (LVIS, arXiv:1908.03195, section 3.4).

Before it: a data set, whose records are walked once for their classes (`data.record_walk`). After it: `data.record_order`
repeats records as this says.

With f the part of all images that a class is in, its factor is max(1, sqrt(t / f)), and an image's is the largest of
its classes' factors. An image of factor 2.3 comes two times in an epoch, or three times in three epochs of ten.
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
    threshold=number(above=0, most=1),
)
class ClassBalance:
    """How often the images of a data set come in an epoch."""

    def __init__(self, threshold=0.001):
        """threshold: t, the part of all images below which a class is rare; the paper's is 0.001."""
        self.threshold = threshold

    def repeats(self, info):
        """Walks over the records of a data set, without their images.

        Args:
          info: DatasetInfo.

        Returns:
          A function of a serialised record [] string and a random number [] in 0 ... 1, which it rounds by -> how often
          the record comes [] int64.

        Raises:
          UserError: a shard is damaged.
        """
        images = find_classes(info)
        factors = self.factors(images, info)
        total = sum(max((factors[k] for k in classes), default=1.0) for classes in images)
        logger.info(
            "classes are balanced: %d of %d are rare, at most %.1f times; an epoch is %d images for %d",
            *(np.sum(factors > 1), len(factors), factors.max(initial=1), round(total), len(images)),
        )
        categories = tf.constant(info.category_ids, tf.int64)

        def repeat(serialized, chance):
            names = ("label", "is_crowd")
            wanted = {_KEYS[name]: schema.FEATURES[_KEYS[name]] for name in names}
            record = tf.io.parse_single_example(serialized, wanted)
            labels, crowd = (record[_KEYS[name]] for name in names)
            here = tf.reduce_any((labels[:, None] == categories) & (crowd == 0)[:, None], axis=0)
            factor = tf.reduce_max(tf.where(here, tf.constant(factors, tf.float32), 1.0))
            return tf.cast(tf.floor(factor + chance), tf.int64)

        return repeat

    def factors(self, images, info):
        """The repeat factors of the classes [K], by the classes of all images."""
        count = np.bincount([k for classes in images for k in classes], minlength=info.num_classes)
        part = count / max(len(images), 1)
        return np.sqrt(np.maximum(1.0, np.divide(self.threshold, part, out=np.ones_like(part), where=count > 0)))


def find_classes(info):
    """[{class index of each object}] of all images; crowd regions are no objects.

    Raises:
      UserError: a shard is damaged.
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
