"""A node's door that may misbehave: files out of memory, by the control API's two requests.

What it answers is what docs/reference/http.md promises, but for the faults that a test asks for.
"""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

from node.config import load_config
from node.presence import announce_node

TOKEN = "t" * 32
CID = "bagaaihra" + "q" * 51
Json = dict[str, Any]


class FakeDoor:
    """The files that it has, what it was asked, and the faults that it is to make, in order."""

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.asked: list[tuple[str, int, int]] = []  # path, start, stop
        self.performed: list[tuple[str, Json]] = []
        self.faults: list[str] = []
        self.hung_up = threading.Event()  # a client left while it waited for a slow operation
        self.url = ""

    @property
    def bytes_asked(self) -> int:
        """How many bytes of files were asked for so far."""
        return sum(stop - start for _, start, stop in self.asked)

    def fault(self) -> str:
        """Take the next fault, if there is one."""
        return self.faults.pop(0) if self.faults else ""

    def perform(self, name: str, params: Json) -> Json:
        """Do an operation: the last line of its answer."""
        self.performed.append((name, params))
        if name == "files" and "nothing" in params["ref"]:
            error = {"code": "NOT_FOUND", "message": "It is not there.", "next": "Look again."}
            return {"error": error | {"exit_code": 3, "peer": ""}}
        if name == "ls":
            held = {"petname": "alice", "name": "data", "publisher": CID}
            return {"result": {"ok": True, "releases": [held, held | {"petname": ""}]}}
        ref = f"allod:{CID}/data@{CID}"
        result: Json = {
            "ok": True, "ref": ref, "name": "data", "version": "1", "kind": "dataset",
            "publisher": CID, "manifest": CID, "license": "MIT",
        }  # fmt: skip
        if name == "files":
            result["files"] = [
                {"path": path, "size": len(data), "cid": f"cid-{path}", "held": False}
                for path, data in self.files.items()
            ]
        elif name == "fetch":
            result |= {"path": "/somewhere", "bytes": {"fetched": 7}, "files": 1}
        return {"result": result}


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""

    def do_POST(self) -> None:
        """Perform an operation."""
        door = self.server.door
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        if self.headers["authorization"] != f"Bearer {TOKEN}":
            self.answer(401, b"{}", "application/json")
            return
        lines: list[Json] = [
            {"progress": {"phase": "fetch", "done": 1, "total": 2, "unit": "B"}},
            {"note": {"text": "It is new.", "level": "warning"}},
            door.perform(self.path.rpartition("/")[2], body),
        ]
        if "slow" in body.get("ref", ""):
            self.close_connection = True
            self.send_response(200)
            self.send_header("content-type", "application/x-ndjson")
            self.end_headers()
            self.wfile.write(json.dumps(lines[0]).encode() + b"\n")
            self.rfile.read(1)
            door.hung_up.set()
            return
        text = "\n".join(json.dumps(line) for line in lines) + "\n"
        self.answer(200, text.encode(), "application/x-ndjson")

    def do_GET(self) -> None:
        """Answer a range, or make a fault."""
        door, where = self.server.door, urlsplit(self.path)
        path = parse_qs(where.query)["path"][0]
        data = door.files[path]
        first, last = map(int, self.headers["range"].removeprefix("bytes=").split("-"))
        door.asked.append((path, first, last + 1))
        part, fault = data[first : last + 1], door.fault()
        if fault == "drop":
            self.close_connection = True
        elif fault == "refuse":
            error = {"code": "NO_SOURCES", "message": "Nobody is there.", "next": "Wait."}
            self.answer(502, json.dumps({"error": error}).encode(), "application/json")
        elif fault == "nonsense":
            self.answer(404, b"<html>", "text/html")
        else:
            shown = (first + 1, last + 1) if fault == "shifted" else (first, last)
            self.send_response(206)
            self.send_header("content-range", f"bytes {shown[0]}-{shown[1]}/{len(data)}")
            self.send_header("content-length", str(len(part)))
            self.end_headers()
            self.wfile.write(part[: len(part) // 2] if fault == "half" else part)
            self.close_connection = fault == "half"

    def answer(self, status: int, body: bytes, kind: str) -> None:
        """Send a whole answer."""
        self.send_response(status)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


class Server(ThreadingHTTPServer):
    """The listener, and the door that it stands for."""

    daemon_threads = True
    door: FakeDoor


@contextmanager
def fake_door(home: Path, files: dict[str, bytes]) -> Iterator[FakeDoor]:
    """Run such a door, to be found by programs whose ALLOD_HOME is ``home``."""
    config = load_config(environ={"ALLOD_HOME": str(home)})
    with Server(("127.0.0.1", 0), Handler) as server:
        server.door = FakeDoor(files)
        server.door.url = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            with announce_node(config, http=server.door.url, token=TOKEN):
                yield server.door
        finally:
            server.shutdown()
            thread.join()
