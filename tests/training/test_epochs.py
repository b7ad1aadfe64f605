"""Epochs: golden texts."""

from htc_tf.training.epochs import describe_epoch, describe_interval, describe_steps, epoch_of


def test_steps_in_epochs():
    assert [epoch_of(step, 3) for step in (0, 1, 3, 5)] == [0.0, 0.3333, 1.0, 1.6667]
    assert describe_epoch(225, 75) == "epoch 3 (step 225)" and describe_epoch(1, 75) == "epoch 0.01 (step 1)"
    assert describe_steps(75, 75) == "75 steps (1 epoch)" and describe_steps(1, 2) == "1 step (0.5 epochs)"
    assert describe_steps(1_759_100, 7330) == "1759100 steps (239.99 epochs)"


def test_an_interval_includes_the_last_step():
    assert describe_interval(75, 900, 75) == "every 75 steps (1 epoch), 12 in all"
    assert describe_interval(4, 9, 2) == "every 4 steps (2 epochs), 3 in all"  # after 4, 8 and 9
