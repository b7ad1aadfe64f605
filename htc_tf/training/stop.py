"""Stop requests: SIGTERM or Ctrl-C ends a training after its current step, with a checkpoint saved.

The loop polls a StopRequest between steps. Before the first step there is nothing to save, and TensorFlow may compile
for a minute in which no Python handler runs: there a thread ends the process at once. This file imports no TensorFlow,
so that the command can handle signals while it starts.
"""

import os
import signal
import sys
import threading

from htc_tf.errors import INTERRUPTED

STOPPED = 75  # EX_TEMPFAIL of sysexits.h: stopped, and the same command continues
MISTAKEN = 2  # a user's mistake, as of every command
SIGNALS = (signal.SIGTERM, signal.SIGINT)


class StopRequest:
    """True once a signal has requested a stop. A second SIGINT ends at once and loses the steps since the checkpoint.

    Outside of the main thread signals cannot be caught, and the request is never made. A signal that the process
    ignores, as set by nohup and by shells in the background, stays ignored.
    """

    def __init__(self, own_process=False):
        """
        Args:
            own_process: bool, True if the process has no other purpose than the training and may be ended from a
                thread. Otherwise, as in a notebook, a second SIGINT raises KeyboardInterrupt.
        """
        self.made, self.own_process = False, own_process
        self.nothing_to_save = own_process  # the training sets it to False
        self.alone = True  # no other worker needs this process; the training sets it to False

    def __bool__(self):
        return self.made

    def __enter__(self):
        self.before, self.writing = {}, None
        if threading.current_thread() is not threading.main_thread():
            return self
        if self.own_process:
            # The interpreter writes the number of each signal to this pipe at once, even while the main thread is in C.
            self.reading, self.writing = os.pipe()
            os.set_blocking(self.writing, False)
            self.wakeup_before = signal.set_wakeup_fd(self.writing, warn_on_full_buffer=False)
            threading.Thread(target=self._watch, daemon=True).start()
        for number in SIGNALS:
            if signal.getsignal(number) != signal.SIG_IGN:
                self.before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *_):
        for number, handler in self.before.items():
            signal.signal(number, handler)
        if self.writing is not None:
            signal.set_wakeup_fd(self.wakeup_before)
            os.close(self.writing)  # ends the thread

    def _receive(self, number, _):
        if not self.own_process and self._request(number):
            raise KeyboardInterrupt

    def _watch(self):
        while received := os.read(self.reading, 1):
            number = signal.Signals(received[0])
            if number in SIGNALS and self._request(number):
                os._exit(INTERRUPTED if self.made else STOPPED)
        os.close(self.reading)

    def _request(self, number):
        """Makes the request. Returns True if the process has to end at once."""
        name = signal.Signals(number).name
        if self.made and number == signal.SIGINT:
            print_line(f"{name} again: ending at once; the last checkpoint is whole")
            return True
        if self.nothing_to_save:
            print_line(f"{name}: no step is done, there is nothing to save")
            return True
        if not self.made:
            print_line(f"{name}: finishing the step, then saving; Ctrl-C ends at once")
        self.made = True
        return False


def print_line(line):
    """Prints to standard error by a system call, since the signal may have interrupted `print`."""
    os.write(sys.__stderr__.fileno(), f"\n{line}\n".encode())


def end_process(status):
    """Ends the process without freeing TensorFlow's memory, which takes seconds: SIGKILL soon follows SIGTERM."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
