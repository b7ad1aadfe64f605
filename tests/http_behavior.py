"""Behaviors of a server on this machine: it gives a file as well or as badly as the path of the request says."""

import http.server

WHOLE = object()


class Handler(http.server.BaseHTTPRequestHandler):
    """Answers each path, such as /good, /good/1 or /good.png, by the method of its name, `give_good`.

    Attributes:
        content: Bytes of the file.
    """

    content = b""

    def do_GET(self):
        self.server.asked.append(self.path)
        self.answer()

    def answer(self):
        name = self.path.strip("/").partition("/")[0].partition(".")[0]
        getattr(self, f"give_{name}")()

    def log_message(self, *arguments):
        pass

    def start(self, status=200, length=WHOLE, **headers):
        """Begins an answer; without a length if it is None."""
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(len(self.content) if length is WHOLE else length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def give_good(self):
        self.start()
        self.wfile.write(self.content)

    def give_unsized(self):
        self.start(length=None)
        self.wfile.write(self.content)

    def give_cut(self):
        self.start()
        self.wfile.write(self.content[:100])

    def give_huge(self):
        self.start(length=10**12)
        self.wfile.write(self.content)

    def give_endless(self):
        """More than is stated nowhere, until the client leaves."""
        self.start(length=None)
        while True:
            self.wfile.write(bytes(2**16))

    def give_page(self):
        self.start(length=15)
        self.wfile.write(b"<!DOCTYPE html>")

    def give_missing(self):
        self.send_error(404)

    def give_redirect(self):
        self.start(302, 0, Location="/good")

    def give_loop(self):
        self.start(302, 0, Location="/loop")
