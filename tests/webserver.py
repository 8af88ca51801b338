"""An HTTPS file server on loopback, and a certificate authority of its own: the Hub, or a mirror.

It serves a folder with ranges under ``/files/``, and as the Hub does:
``/ORG/NAME/resolve/REV/PATH`` answers 302 to another server, on which the bytes are.
``mode`` says how it misbehaves.
"""

import gzip
import ipaddress
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

Mode = Literal[
    "honest", "lie", "short", "long", "whole", "stall", "silent", "headers", "gzip", "moved",
    "absent", "forbidden", "busy", "broken", "grown", "elsewhere", "hang up",
]  # fmt: skip
"""``moved``: redirects to ``location``. ``elsewhere``: sends another range than was asked for."""

ADDRESS = "127.0.0.1"


class Authority:
    """A certificate authority; its own certificate lies in ``file``."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's authority")])
        self.certificate = self._sign(self._name, self._key, (), ca=True)
        self.file = folder / "ca.pem"
        self.file.write_bytes(self.certificate.public_bytes(serialization.Encoding.PEM))

    def context(self, *names: str) -> ssl.SSLContext:
        """What a server of these names shows."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a test's server")])
        certificate = self._sign(subject, key, names, ca=False)
        file = self._folder / f"{certificate.serial_number:x}.pem"
        file.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
            + certificate.public_bytes(serialization.Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(file)
        return context

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: tuple[str, ...],
        *,
        ca: bool,
    ) -> x509.Certificate:
        now = datetime.now(UTC)
        usage = dict.fromkeys(
            (
                "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                "encipher_only", "decipher_only",
            ),
            False,
        )  # fmt: skip
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca, None), critical=True)
            .add_extension(
                x509.KeyUsage(digital_signature=True, key_cert_sign=ca, crl_sign=ca, **usage),
                critical=True,
            )
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), False
            )
        )
        if names:
            made = made.add_extension(x509.SubjectAlternativeName([*map(_san, names)]), False)
        return made.sign(self._key, hashes.SHA256())


def _san(name: str) -> x509.GeneralName:
    with suppress(ValueError):
        return x509.IPAddress(ipaddress.ip_address(name))
    return x509.DNSName(name)


class WebServer(ThreadingHTTPServer):
    """A server of ``folder``; what it was asked is in ``asked``: the path and the headers."""

    daemon_threads = True

    def __init__(self, folder: Path, context: ssl.SSLContext, mode: Mode = "honest") -> None:
        super().__init__((ADDRESS, 0), _Handler)
        self.folder = folder
        self.mode: Mode = mode
        self.location = ""
        self.storage: WebServer | None = None
        """Where the large files of a Hub are; its own ``/files/`` if there is no other."""
        self.lacks: set[str] = set()
        self.asked: list[tuple[str, dict[str, str]]] = []
        self.connections = 0
        self.sent = 0
        self.closed = threading.Event()
        self._context = context

    @property
    def port(self) -> int:
        port: int = self.server_address[1]
        return port

    @property
    def authority(self) -> str:
        """What a policy names in ``web.local_hosts``."""
        return f"{ADDRESS}:{self.port}"

    @property
    def files(self) -> str:
        """The URL of the folder."""
        return f"https://{self.authority}/files/"

    def repo(self, name: str, revision: str) -> str:
        """The URL of the folder as a repository of a Hub."""
        return f"https://{self.authority}/{name}/resolve/{revision}/"

    def get_request(self) -> tuple[Any, Any]:
        """Accept; the handshake is the handler's, in its own thread."""
        connection, address = self.socket.accept()
        self.connections += 1
        wrapped = self._context.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        )
        return wrapped, address

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Whoever breaks off in the middle of an answer is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def do_GET(self) -> None:
        web = self.server
        web.asked.append((self.path, {name.lower(): value for name, value in self.headers.items()}))
        found = re.match(r"/(files|.+?/resolve/[^/]+)/([^?]*)", self.path)
        path = unquote(found[2]) if found else ""
        if found and found[1] != "files":
            place = (web.storage or web).files
            self._head(302, {"location": f"{place}{quote(path)}?signature={'x' * 1000}"}, b"moved")
            return
        file = web.folder / path
        if not path or not file.is_file() or path in web.lacks:
            self._head(404, {}, b"there is no such file")
            return
        getattr(self, f"_{web.mode.replace(' ', '_')}", self._range)(file.read_bytes())

    def _range(self, data: bytes) -> None:
        mode = self.server.mode
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("range", ""))
        assert asked, "the tests ask for ranges alone"
        start, stop = int(asked[1]), int(asked[2]) + 1
        size = len(data) + (mode == "grown")
        if mode == "elsewhere":
            start, stop = start + 1, stop + 1
        body = data[start:stop]
        length = len(body)
        if mode == "lie":
            body = bytes([body[0] ^ 1]) + body[1:]
        if mode == "long":
            length, body = length + 1, body + b"x"
        if mode == "short":
            body = body[: length // 2]
        self._head(
            206,
            {"content-range": f"bytes {start}-{stop - 1}/{size}", "content-length": str(length)},
            b"" if mode == "stall" else body,
        )
        if mode in ("stall", "short"):
            self.close_connection = True
        if mode == "stall":
            self.server.closed.wait()

    def _whole(self, data: bytes) -> None:
        self._head(200, {}, data)

    def _gzip(self, data: bytes) -> None:
        self._head(206, {"content-encoding": "gzip"}, gzip.compress(data[:1000]))

    def _silent(self, data: bytes) -> None:
        self.server.closed.wait()
        self.close_connection = True

    def _hang_up(self, data: bytes) -> None:
        self.close_connection = True

    def _headers(self, data: bytes) -> None:
        self.wfile.write(b"HTTP/1.1 200 OK\r\n" + b"x-more: and more\r\n" * 10_000)
        self.server.closed.wait()
        self.close_connection = True

    def _moved(self, data: bytes) -> None:
        self._head(302, {"location": self.server.location}, b"")

    def _absent(self, data: bytes) -> None:
        self._head(404, {}, b"")

    def _forbidden(self, data: bytes) -> None:
        self._head(403, {}, b"")

    def _busy(self, data: bytes) -> None:
        self._head(429, {"retry-after": "7"}, b"")

    def _broken(self, data: bytes) -> None:
        self._head(500, {}, b"")

    def _head(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in ({"content-length": str(len(body))} | headers).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.server.sent += len(body) if status == 206 else 0

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing on stderr."""


@contextmanager
def web_server(
    authority: Authority,
    folder: Path,
    mode: Mode = "honest",
    *,
    names: tuple[str, ...] = (ADDRESS,),
) -> Iterator[WebServer]:
    """Serve a folder as long as the block lasts, under a certificate for ``names``."""
    server = WebServer(folder, authority.context(*names), mode)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.closed.set()
        server.shutdown()
        server.server_close()
        thread.join()
