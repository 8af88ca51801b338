"""A server on loopback that answers as the Hugging Face Hub does, and misbehaves when told to.

What huggingface_hub, 1.x and 2.x, asks for: a repository's info, its tree in pages, its refs, the
metadata of some paths, and its files, of which the large ones are redirected to another host.
It counts what it is asked, so that a test can say that nothing was downloaded.
"""

import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Event, Thread
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Json = dict[str, Any]

PAGE = 3  # entries of a tree that come at once, so that there are pages
LARGE = (".safetensors", ".bin", ".parquet", ".gguf", ".pt")  # kept as LFS, as at the Hub
_COMMIT = re.compile("[0-9a-f]{40}")


def git_sha1(data: bytes) -> str:
    """Return what git calls these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


@dataclass
class HubRepo:
    """A repository: ``commits`` with their files, ``refs`` that name them."""

    repo: str
    kind: str = "model"
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)
    gated: bool = False
    private: bool = False

    def push(self, files: dict[str, bytes], ref: str = "main") -> str:
        """Make a commit of files; returns its id, which they alone determine."""
        text = json.dumps([[path, git_sha1(files[path])] for path in sorted(files)])
        commit = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.commits[commit] = files
        self.refs[ref] = commit
        return commit


class Hub:
    """A Hub with its repositories; what is in the sets below goes wrong.

    ``wrong_bytes``: paths that are served with other bytes. ``wrong_hash``: paths that are listed
    with another hash. ``lost``: paths that are listed and not there. ``stalls``: paths of which
    half comes, and then nothing until ``go``. ``status``: what every request is answered with.
    """

    def __init__(self) -> None:
        self.repos: dict[tuple[str, str], HubRepo] = {}
        self.asked: list[tuple[str, str]] = []
        self.tokens: list[str] = []
        self.wrong_bytes: set[str] = set()
        self.wrong_hash: set[str] = set()
        self.lost: set[str] = set()
        self.stalls: set[str] = set()
        self.stalled = Event()
        self.go = Event()
        self.status = 0
        self.port = 0

    @property
    def url(self) -> str:
        """What HF_ENDPOINT is set to."""
        return f"http://127.0.0.1:{self.port}"

    def make(self, repo: str, files: dict[str, bytes], kind: str = "model") -> HubRepo:
        """Make a repository with one commit on main."""
        made = self.repos[kind, repo] = HubRepo(repo, kind)
        made.push(files)
        return made

    def environ(self, home: str) -> dict[str, str]:
        """Variables that lead Hugging Face's clients here, and to a cache of their own."""
        return {
            "HF_ENDPOINT": self.url,
            "HF_HOME": home,
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_IMPLICIT_TOKEN": "1",
        }

    def downloads(self) -> list[str]:
        """The files that were given out."""
        return [path for method, path in self.asked if method == "GET" and "/api/" not in path]


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Run a Hub for as long as the block lasts."""
    hub = Hub()

    class Handler(_Handler):
        pass

    Handler.hub = hub
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.go.set()
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        size = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(size).decode() if size else ""
        where = urlsplit(self.path)
        path = unquote(where.path)
        self.hub.asked.append((self.command, path))
        if "Authorization" in self.headers:
            self.hub.tokens.append(self.headers["Authorization"])
        if self.hub.status:
            self._send(self.hub.status, b"{}")
        elif path.startswith("/cdn/"):
            self._cdn(path.removeprefix("/cdn/"))
        elif path.startswith("/api/"):
            self._api(path, parse_qs(where.query), body)
        else:
            self._file(path)

    # --- the API ---------------------------------------------------------------------------------

    def _api(self, path: str, query: dict[str, list[str]], body: str) -> None:
        found = re.fullmatch(
            r"/api/(models|datasets)/(.+?)(?:/(revision|tree|paths-info|refs)(?:/(.*))?)?", path
        )
        repo = found and self.hub.repos.get((found[1][:-1], found[2]))
        if not found or not repo:
            return self._missing("RepoNotFound", "Repository not found")
        what, rest = found[3] or "revision", found[4] or "main"
        if what == "refs":
            branches = [
                {"name": name, "ref": f"refs/heads/{name}", "targetCommit": commit}
                for name, commit in repo.refs.items()
            ]
            return self._json({"branches": branches, "tags": [], "converts": []})
        revision = rest if what == "revision" else rest.split("/")[0]
        commit = repo.refs.get(revision, revision)
        if commit not in repo.commits:
            return self._missing("RevisionNotFound", "Invalid rev id")
        if what == "revision":
            return self._json(self._info(repo, commit))
        entries = [self._entry(repo, commit, one) for one in sorted(repo.commits[commit])]
        if what == "paths-info":
            wanted = set(parse_qs(body).get("paths", []))
            return self._json([one for one in entries if one["path"] in wanted])
        return self._tree(path, entries, query)

    def _info(self, repo: HubRepo, commit: str) -> Json:
        day = "2024-01-01T00:00:00.000Z"
        return {
            "_id": commit[:24],
            "id": repo.repo,
            "modelId": repo.repo,
            "sha": commit,
            "private": repo.private,
            "gated": "manual" if repo.gated else False,
            "disabled": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "lastModified": day,
            "createdAt": day,
            "siblings": [{"rfilename": path} for path in sorted(repo.commits[commit])],
        }

    def _tree(self, path: str, entries: list[Json], query: dict[str, list[str]]) -> None:
        folders = sorted({one["path"].rpartition("/")[0] for one in entries} - {""})
        entries = [
            *({"type": "directory", "path": one, "oid": "0" * 40, "size": 0} for one in folders),
            *entries,
        ]
        start = int(query.get("cursor", ["0"])[0])
        more = {}
        if start + PAGE < len(entries):
            next = f"{self.hub.url}{path}?recursive=true&cursor={start + PAGE}"
            more["Link"] = f'<{next}>; rel="next"'
        self._json(entries[start : start + PAGE], more)

    def _entry(self, repo: HubRepo, commit: str, path: str) -> Json:
        data = repo.commits[commit][path]
        entry: Json = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
        if path.endswith(LARGE):
            entry["lfs"] = {"oid": self._sha256(path, data), "size": len(data), "pointerSize": 134}
            entry["oid"] = git_sha1(b"a pointer to " + path.encode())
        elif path in self.hub.wrong_hash:
            entry["oid"] = "1" * 40
        return entry

    def _sha256(self, path: str, data: bytes) -> str:
        return "1" * 64 if path in self.hub.wrong_hash else hashlib.sha256(data).hexdigest()

    # --- files -----------------------------------------------------------------------------------

    def _file(self, path: str) -> None:
        found = re.fullmatch(r"/(datasets/)?(.+?)/resolve/([^/]+)/(.+)", path)
        repo = found and self.hub.repos.get(("dataset" if found[1] else "model", found[2]))
        if not found or not repo:
            return self._missing("RepoNotFound", "Repository not found")
        commit, name = repo.refs.get(found[3], found[3]), found[4]
        if repo.gated:
            return self._send(403, b"", {"X-Error-Code": "GatedRepo"})
        if commit not in repo.commits:
            return self._missing("RevisionNotFound", "Invalid rev id")
        data = repo.commits[commit].get(name)
        if data is None or name in self.hub.lost:
            return self._missing("EntryNotFound", "Entry not found", {"X-Repo-Commit": commit})
        headers = {"X-Repo-Commit": commit}
        if name.endswith(LARGE):
            sha256 = self._sha256(name, data)
            headers |= {
                "X-Linked-Etag": f'"{sha256}"',
                "X-Linked-Size": str(len(data)),
                # Another host than the Hub's, as its CDN is.
                "Location": f"http://localhost:{self.hub.port}/cdn/{repo.repo}/{commit}/{name}",
            }
            return self._send(302, b"", headers)
        etag = "1" * 40 if name in self.hub.wrong_hash else git_sha1(data)
        return self._bytes(name, data, headers | {"ETag": f'"{etag}"'})

    def _cdn(self, rest: str) -> None:
        for repo in self.hub.repos.values():
            for commit, files in repo.commits.items():
                name = rest.removeprefix(f"{repo.repo}/{commit}/")
                if name != rest and name in files:
                    return self._bytes(name, files[name], {})
        return self._missing("EntryNotFound", "Entry not found")

    def _bytes(self, name: str, data: bytes, headers: dict[str, str]) -> None:
        if name in self.hub.wrong_bytes:
            data = bytes(each ^ 1 for each in data)
        status, asked = 200, re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        if asked:
            start, stop = int(asked[1]), int(asked[2] or len(data) - 1) + 1
            headers |= {"Content-Range": f"bytes {start}-{stop - 1}/{len(data)}"}
            status, data = 206, data[start:stop]
        if name in self.hub.stalls and self.command == "GET":
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data[: len(data) // 2])
            self.wfile.flush()
            self.hub.stalled.set()
            self.hub.go.wait()
            self.close_connection = True
            return
        self._send(status, data, headers | {"Accept-Ranges": "bytes"})

    # --- answers ---------------------------------------------------------------------------------

    def _missing(self, code: str, message: str, more: dict[str, str] | None = None) -> None:
        headers = {"X-Error-Code": code, "X-Error-Message": message}
        self._send(404, b"{}", headers | (more or {}))

    def _json(self, value: object, headers: dict[str, str] | None = None) -> None:
        self._send(
            200,
            json.dumps(value).encode(),
            {"Content-Type": "application/json"} | (headers or {}),
        )

    def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
