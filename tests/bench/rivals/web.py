"""A static web server for the HTTP rivals: nginx if it is installed, else a small one in Python.

It also has the few answers of the Hugging Face Hub that a download of one repository asks for.
"""

import datetime
import functools
import hashlib
import http.server
import json
import os
import shutil
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from p2p.lane.tls import LIFETIME
from tests.bench.agent import Json
from tests.bench.works import MIB

REPO = "bench/work"
COMMIT = hashlib.sha1(b"bench").hexdigest()
API = f"/api/models/{REPO}"
INFO, TREE = f"{API}/revision/main", f"{API}/tree/{COMMIT}"
FILES = f"/{REPO}/resolve/{COMMIT}/"

NGINX = """
{user}daemon off; worker_processes auto; pid {home}/nginx.pid; error_log {home}/error.log;
events {{ worker_connections 64; }}
http {{
  access_log off; sendfile on; tcp_nopush on; keepalive_requests 100000;
  client_body_temp_path {home}/body; proxy_temp_path {home}/proxy; fastcgi_temp_path {home}/fcgi;
  uwsgi_temp_path {home}/uwsgi; scgi_temp_path {home}/scgi;
  server {{
    listen 127.0.0.1:{http}; listen 127.0.0.1:{https} ssl;
    ssl_certificate {home}/cert.pem; ssl_certificate_key {home}/cert.pem; ssl_protocols TLSv1.3;
    location = {info} {{ default_type application/json; alias {home}/info; }}
    location = {tree} {{ default_type application/json; alias {home}/tree; }}
    location {files} {{ add_header X-Repo-Commit {commit}; alias {folder}/; }}
  }}
}}
"""


def server_name() -> str:
    """Which server it will be."""
    return "nginx" if shutil.which("nginx") else "a server in Python (sendfile; TLS by OpenSSL)"


@contextmanager
def serve(folder: Path, home: Path, option: str) -> Iterator[Json]:
    """Serve a folder over HTTP and HTTPS."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    names = {str(file.relative_to(folder)): file.stat().st_size for file in files}
    (home / "info").write_text(json.dumps({"id": REPO, "sha": COMMIT, "siblings": []}))
    entries = [
        {"type": "file", "path": name, "size": size, "oid": hashlib.sha1(name.encode()).hexdigest()}
        for name, size in names.items()
    ]
    (home / "tree").write_text(json.dumps(entries))
    _make_certificate(home / "cert.pem")
    run = _nginx if shutil.which("nginx") else _python
    with run(folder, home) as (plain, secure):
        yield {
            "http": f"http://127.0.0.1:{plain}",
            "https": f"https://127.0.0.1:{secure}",
            "names": list(names),
        }


def _make_certificate(file: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "127.0.0.1")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    start = datetime.datetime(2020, 1, 1)
    builder = builder.not_valid_before(start).not_valid_after(start + 3 * LIFETIME)
    certificate = builder.sign(key, hashes.SHA256())
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(pem + certificate.public_bytes(Encoding.PEM))


@contextmanager
def _nginx(folder: Path, home: Path) -> Iterator[tuple[int, int]]:
    ports = _free_port(), _free_port()
    (home / "nginx.conf").write_text(
        NGINX.format(
            user="user root; " if os.geteuid() == 0 else "",
            home=home,
            folder=folder,
            http=ports[0],
            https=ports[1],
            info=INFO,
            tree=TREE,
            files=FILES,
            commit=COMMIT,
        )
    )
    with subprocess.Popen(["nginx", "-p", str(home), "-c", str(home / "nginx.conf")]) as process:
        try:
            _wait_for(ports[0])
            yield ports
        finally:
            process.terminate()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port: int = sock.getsockname()[1]
        return port


def _wait_for(port: int) -> None:
    while True:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            continue
        return


class _Pages(http.server.BaseHTTPRequestHandler):
    """Whole files and their ends (``Range: bytes=N-``)."""

    protocol_version = "HTTP/1.1"

    def __init__(self, folder: Path, home: Path, *rest: object) -> None:
        self._folder = folder
        self._home = home
        super().__init__(*rest)  # type: ignore[arg-type]

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        file = {INFO: self._home / "info", TREE: self._home / "tree"}.get(path)
        file = file or self._folder / path.removeprefix(FILES)
        size = file.stat().st_size
        wanted = self.headers.get("Range", "")
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
        self.send_header("Content-Length", str(size - start))
        self.send_header("ETag", f'"{hashlib.sha1(path.encode()).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if not body:
            return
        self.wfile.flush()
        with file.open("rb") as stream:
            if isinstance(self.connection, ssl.SSLSocket):
                stream.seek(start)
                while data := stream.read(MIB):
                    self.connection.sendall(data)
            else:
                self.connection.sendfile(stream, start)


@contextmanager
def _python(folder: Path, home: Path) -> Iterator[tuple[int, int]]:
    pages = functools.partial(_Pages, folder, home)
    servers = [http.server.ThreadingHTTPServer(("127.0.0.1", 0), pages) for _ in range(2)]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(home / "cert.pem")
    servers[1].socket = context.wrap_socket(servers[1].socket, server_side=True)
    threads = [threading.Thread(target=server.serve_forever) for server in servers]
    for thread in threads:
        thread.start()
    yield servers[0].server_port, servers[1].server_port
    for server in servers:
        server.shutdown()
