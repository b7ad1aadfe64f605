"""A worker of the cluster tests: python cluster_worker.py STEP NETWORK FLAGS... runs htc_tf.train, and dies after STEP.

With STEP 0 it does not die. NETWORK is "toy", two convolutions in place of the detector that the flags configure, which
are traced in a second, or "detector". The samplers choose evenly, so that the losses of a batch do not depend on
its division among workers.
"""

import contextlib
import functools
import os
import signal
import sys

from tensorflow.python.eager import context

from htc_tf import config, train
from htc_tf.ops.matching import subsample_evenly
from htc_tf.training.monitor import Monitor
from tests import toy_detector

HEARTBEAT = 60_000  # milliseconds without a sign of life from a worker; TensorFlow's 10 s are few on a busy computer


def sample_evenly(experiment):
    build = experiment.build_model

    def build_model():
        model = build()
        model.roi_sampler.choose = lambda seed: subsample_evenly
        return model

    experiment.build_model = build_model
    experiment.objective.anchor_sampler.choose = lambda seed: subsample_evenly


def main(last_step, network):
    configure = context.Context.configure_coordination_service
    context.Context.configure_coordination_service = functools.partialmethod(
        configure, heartbeat_timeout_in_ms=HEARTBEAT
    )
    log, load = Monitor.log, config.load

    def log_and_die(self, step, numbers):
        log(self, step, numbers)
        if step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    def load_and_change(*arguments, **options):
        experiment, resolved = load(*arguments, **options)
        {"toy": toy_detector.use, "detector": sample_evenly}[network](experiment)
        return experiment, resolved

    Monitor.log, config.load = log_and_die, load_and_change
    with toy_detector.without_estimate() if network == "toy" else contextlib.nullcontext():
        train.main()


if __name__ == "__main__":
    main(int(sys.argv.pop(1)), sys.argv.pop(1))
