"""A server on this machine that gives a file as well or as badly as the path of the request says."""

import contextlib
import http.server
import threading
import time

from tests import http_behavior

CONTENT = bytes(range(256)) * 4000  # 1 MB
SIZE = len(CONTENT)


class Handler(http_behavior.Handler):
    content = CONTENT

    def give_other(self):
        self.start(length=5)
        self.wfile.write(b"other")

    def give_empty(self):
        self.start(length=0)

    def give_silent(self):
        """Stops in the middle until the test ends."""
        self.start()
        self.wfile.write(CONTENT[: SIZE // 2])
        self.server.silence.wait(60)

    def give_slow(self):
        """Takes longer than the timeout in all, but never between two parts."""
        self.start()
        for start in range(0, SIZE, SIZE // 8):
            self.wfile.write(CONTENT[start : start + SIZE // 8])
            time.sleep(0.1)


@contextlib.contextmanager
def serve():
    """Runs a server on this machine; `asked` lists the paths of its requests, in order."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.silence, server.daemon_threads = [], threading.Event(), True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.silence.set()
        server.shutdown()
