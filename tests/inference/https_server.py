"""An https server on this machine that gives an image as well or as badly as the path of the request says."""

import datetime
import http.server
import io
import ipaddress

import numpy as np
import pytest
from PIL import Image

from tests import http_behavior

PIXELS = np.random.default_rng(0).integers(0, 255, (24, 40, 3), np.uint8)
STREAM = io.BytesIO()
Image.fromarray(PIXELS).save(STREAM, "PNG")
CONTENT = STREAM.getvalue()


class Handler(http_behavior.Handler):
    content = CONTENT

    def do_GET(self):
        self.server.asked.append((self.path, self.headers))
        self.answer()

    def give_chunked(self):
        self.start(length=None, Transfer_Encoding="chunked")
        self.wfile.write(b"%x\r\n%s\r\n0\r\n\r\n" % (len(CONTENT), CONTENT))

    def give_compressed(self):
        self.start(Content_Encoding="gzip")
        self.wfile.write(CONTENT)

    def give_to_http(self):
        self.start(302, 0, Location="http://localhost/x.png")

    def give_to_file(self):
        self.start(302, 0, Location="file:///etc/passwd")

    def give_to_private(self):
        self.start(302, 0, Location=f"https://127.0.0.2:{self.server.server_address[1]}/good")

    def give_nowhere(self):
        self.start(302, 0)

    def give_dripping(self):
        self.start()
        for byte in CONTENT:
            self.wfile.write(bytes([byte]))
            if self.server.silence.wait(0.05):
                return

    def give_silent(self):
        self.server.silence.wait(60)


def write_certificate(path):
    """Writes a self-signed certificate of this machine's addresses, with its key."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    addresses = [x509.IPAddress(ipaddress.ip_address(text)) for text in ("127.0.0.1", "127.0.0.2")]
    now = datetime.datetime.now()
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=2))
        .not_valid_after(now + datetime.timedelta(days=2))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost"), *addresses]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = serialization.Encoding.PEM
    path.write_bytes(key.private_bytes(pem, *form) + certificate.public_bytes(pem))


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, address):
        """A client that leaves is no error here."""
