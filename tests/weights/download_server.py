"""A server on this machine that gives a file as well or as badly as the path of the request says."""

import contextlib
import http.server
import threading
import time

CONTENT = bytes(range(256)) * 4000  # 1 MB
SIZE = len(CONTENT)


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each path with the behavior of that name."""

    def do_GET(self):
        self.server.asked.append(self.path)
        getattr(self, f"give_{self.path.strip('/').partition('/')[0]}")()

    def start(self, status=200, length=SIZE, **headers):
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def give_good(self):
        self.start()
        self.wfile.write(CONTENT)

    def give_other(self):
        self.start(length=5)
        self.wfile.write(b"other")

    def give_page(self):
        self.start(length=15)
        self.wfile.write(b"<!DOCTYPE html>")

    def give_empty(self):
        self.start(length=0)

    def give_missing(self):
        self.send_error(404)

    def give_cut(self):
        self.start()
        self.wfile.write(CONTENT[:1000])

    def give_unsized(self):
        self.start(length=None)
        self.wfile.write(CONTENT)

    def give_redirect(self):
        self.start(302, 0, Location="/good")

    def give_loop(self):
        self.start(302, 0, Location="/loop")

    def give_silent(self):
        """Stops in the middle until the test ends."""
        self.start()
        self.wfile.write(CONTENT[: SIZE // 2])
        self.server.silence.wait(60)

    def give_huge(self):
        self.start(length=10**12)
        self.wfile.write(CONTENT)

    def give_endless(self):
        self.start(length=None)
        while True:
            self.wfile.write(CONTENT)

    def give_slow(self):
        """Takes longer than the timeout in all, but never between two parts."""
        self.start()
        for start in range(0, SIZE, SIZE // 8):
            self.wfile.write(CONTENT[start : start + SIZE // 8])
            time.sleep(0.1)

    def log_message(self, *arguments):
        pass


@contextlib.contextmanager
def serve():
    """Runs a server on this machine; `asked` lists the paths of its requests, in order."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.asked, server.silence, server.daemon_threads = [], threading.Event(), True
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield server
        server.silence.set()
        server.shutdown()
