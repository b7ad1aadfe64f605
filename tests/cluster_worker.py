"""A worker of `test_cluster_failure`: python cluster_worker.py STEP FLAGS... runs htc_tf.train, and dies after STEP.

With STEP 0 it does not die.
"""

import functools
import os
import signal
import sys

from tensorflow.python.eager import context

from htc_tf import train
from htc_tf.training.monitor import Monitor

HEARTBEAT = 60_000  # milliseconds without a sign of life from a worker; TensorFlow's 10 s are few on a busy computer


def main(last_step):
    configure = context.Context.configure_coordination_service
    context.Context.configure_coordination_service = functools.partialmethod(
        configure, heartbeat_timeout_in_ms=HEARTBEAT
    )
    log = Monitor.log

    def log_and_die(self, step, numbers):
        log(self, step, numbers)
        if step == last_step:
            os.kill(os.getpid(), signal.SIGKILL)

    Monitor.log = log_and_die
    train.main()


if __name__ == "__main__":
    main(int(sys.argv.pop(1)))
