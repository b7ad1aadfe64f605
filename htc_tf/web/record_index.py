"""Record index: offsets, ids, classes and object sizes of all records of a dataset, read in the background.

A record takes about 24 bytes of memory and each object 7: COCO's 118,287 images take 9 megabytes. It is made of the
shards' index files; without them, all records are walked, but no image is read (`data.shard_index`).
"""

import threading
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from htc_tf.data import shard_index
from htc_tf.errors import UserError, reason_of

SIZES = ("small", "medium", "large", "crowd")  # COCO's sizes, by the mask's area; crowd regions have none
AREA_LIMITS = (32**2, 96**2)  # square pixels, lower bounds of medium and large


class Part(NamedTuple):
    """The index of n records with m objects."""

    shards: np.ndarray  # [n] int32, index of the shard
    offsets: np.ndarray  # [n] int64, first byte of the record in its shard
    lengths: np.ndarray  # [n] int32, bytes
    image_ids: np.ndarray  # [n] int64, COCO's
    owners: np.ndarray  # [m] int32, position of the object's record
    classes: np.ndarray  # [m] int16 (int32 if K is larger), 0 ... K - 1; -1 if the dataset does not list it
    sizes: np.ndarray  # [m] int8, index into SIZES


class RecordIndex:
    """The index of a dataset. It can be queried while it grows.

    Attributes:
        records: Number of records of the complete index.
        problem: Message of the error that stopped the reading, or "".
    """

    def __init__(self, info):
        """Initializes an empty index of a DatasetInfo; `start` fills it."""
        self.info, self.records, self.problem = info, info.records, ""
        self._parts, self._whole = [], None
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def start(self):
        self._thread.start()

    def wait(self):
        self._thread.join()

    def stop(self):
        self._stop.set()
        self._thread.join()

    @property
    def done(self):
        return self._thread.ident is not None and not self._thread.is_alive()

    def known(self):
        """Returns a Part of all records read so far."""
        with self._lock:
            if self._parts:
                self._whole = _join([*([self._whole] if self._whole else []), *self._parts])
                self._parts = []
            return self._whole or Part(*(np.zeros(0, np.int64) for _ in Part._fields))

    def find(self, label=None, size=None, image_id=None, without_objects=False):
        """Returns the positions of matching records, [k] int64, in the dataset's order.

        Args:
            label: Index of a class, or None. With `size`, one object must match both.
            size: Index into SIZES, or None.
            image_id: COCO's image id, or None.
            without_objects: If True, only images without objects match.
        """
        known = self.known()
        fits = np.ones(len(known.offsets), bool)
        if label is not None or size is not None:
            chosen = np.ones(len(known.owners), bool)
            chosen &= True if label is None else known.classes == label
            chosen &= True if size is None else known.sizes == size
            fits = np.bincount(known.owners[chosen], minlength=len(fits)) > 0
        if without_objects:
            fits &= np.bincount(known.owners, minlength=len(fits)) == 0
        if image_id is not None:
            fits &= known.image_ids == image_id
        return np.flatnonzero(fits)

    def count_classes(self):
        """Returns the number of objects read so far, with crowd regions, by class: [K] int64."""
        known = self.known().classes
        return np.bincount(known[known >= 0], minlength=self.info.num_classes)

    def read(self, position):
        """Reads a single record of a shard.

        Args:
            position: Int.
        Returns:
            (index of the shard, serialized record).
        Raises:
            UserError: The position is not indexed, or the shard cannot be read.
        """
        known = self.known()
        if not 0 <= position < len(known.offsets):
            raise UserError(f"no image number {position}, or it is not indexed yet")
        shard = int(known.shards[position])
        try:
            with tf.io.gfile.GFile(self.info.shard_paths[shard], "rb") as file:
                file.seek(int(known.offsets[position]))
                return shard, file.read(int(known.lengths[position]))
        except tf.errors.OpError as error:
            raise UserError(f"{self.info.shard_paths[shard]} cannot be read: {reason_of(error.message)}") from None

    def _read(self):
        try:
            for shard, index in shard_index.read_all(self.info):
                if self._stop.is_set():
                    return
                part = self._describe(shard, index)
                with self._lock:
                    self._parts.append(part)
        except UserError as error:
            self.problem = str(error)

    def _describe(self, shard, index):
        """Returns the Part of a ShardIndex, of the shard with this number."""
        kind = np.int16 if self.info.num_classes < 2**15 else np.int32
        sizes = np.where(index.crowd, SIZES.index("crowd"), np.digitize(index.areas, AREA_LIMITS))
        return Part(
            shards=np.full(len(index.offsets), shard, np.int32),
            offsets=index.offsets,
            lengths=index.lengths.astype(np.int32),
            image_ids=index.image_ids,
            owners=index.owners.astype(np.int32),
            classes=index.classes(self.info.category_ids).astype(kind),
            sizes=sizes.astype(np.int8),
        )


def _join(parts):
    """Joins Parts; the owners of each count from its own first record."""
    firsts = np.cumsum([0, *(len(part.offsets) for part in parts)], dtype=np.int32)
    parts = [part._replace(owners=part.owners + first) for part, first in zip(parts, firsts, strict=False)]
    return Part(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))
