"""Class columns: golden indices, and classes of the same name."""

from htc_tf.training.class_columns import ClassColumns, shared_classes


def test_columns_of_classes():
    assert ClassColumns(1, 1).of([2, 0], total=3) == [2, 0, 3]  # the background is last
    assert ClassColumns(4, 0).of([1], total=3) == [4, 5, 6, 7] and ClassColumns(4, 0).count(3) == 12
    assert ClassColumns(1, 0).of([], total=3) == []
    assert shared_classes(["Cat", "dog", "cat "], ["dog", "cow", " CAT"]) == [(1, 0), (0, 2)]
