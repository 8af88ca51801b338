"""llama.cpp with one model, for tests that ask what a GGUF file really says.

It runs as a process of its own on a Unix socket, as a node's engine does, but plainly: no
supervisor, no confinement.
"""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

WITHIN = 60.0  # seconds for any answer: a hang ends here

_SERVE = """
import sys, time, xllamacpp
params = xllamacpp.CommonParams()
params.model.path, params.hostnames = sys.argv[1], [sys.argv[2]]
params.n_ctx, params.n_parallel, params.fit_params, params.ui = 512, 1, False, False
params.warmup = False
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = 1
if sys.argv[3]:
    params.embedding, params.n_batch, params.n_ubatch = True, 512, 512
server = xllamacpp.Server(params)
print("ready", flush=True)
sys.stdin.read()
import os; os._exit(0)
"""


class _Connection(HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=WITHIN)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(WITHIN)
        self.sock.connect(str(self._path))


class Llama:
    """A model that answers."""

    def __init__(self, path: Path, process: int) -> None:
        self._path = path
        self._process = process

    def peak_memory(self) -> int:
        """Return the most bytes of memory that it had at any time."""
        words = Path(f"/proc/{self._process}/status").read_text().split()
        return int(words[words.index("VmHWM:") + 1]) << 10

    def ask(self, path: str, body: dict[str, Any]) -> Any:
        """Return the JSON that ``path`` answers."""
        connection = _Connection(self._path)
        try:
            connection.request("POST", path, json.dumps(body).encode())
            answer = connection.getresponse()
            data = answer.read()
            assert answer.status == 200, data
            return json.loads(data)
        finally:
            connection.close()

    def tokenize(self, text: str, *, special: bool = False) -> list[int]:
        """Return the tokens of a text; ``special``: with what is put around it."""
        found: list[int] = self.ask(
            "/tokenize", {"content": text, "add_special": special, "parse_special": True}
        )["tokens"]
        return found

    def likely(self, ids: list[int], count: int = 20) -> dict[int, float]:
        """Return the likeliest next tokens and the logarithms of their probabilities."""
        body = {
            "prompt": ids,
            "n_predict": 1,
            "ignore_eos": True,
            "n_probs": count,
            "temperature": 0.0,
            "cache_prompt": False,
        }
        [one] = self.ask("/completion", body)["completion_probabilities"]
        return {each["id"]: each["logprob"] for each in one["top_logprobs"]}

    def greedy(self, ids: list[int], count: int) -> list[int]:
        """Return the tokens that follow, always the likeliest."""
        body = {"prompt": ids, "n_predict": count, "temperature": 0.0, "return_tokens": True}
        found: list[int] = self.ask("/completion", body)["tokens"]
        return found

    def embed(self, text: str | list[int]) -> list[float]:
        """Return the embedding of a text, or of tokens."""
        [one] = self.ask("/v1/embeddings", {"input": text})["data"]
        found: list[float] = one["embedding"]
        return found


@contextmanager
def open_llama(model: Path, folder: Path, *, embed: bool = False) -> Iterator[Llama]:
    """Run llama.cpp with a GGUF file; ``folder`` is one for its socket."""
    path = folder / "llama.sock"
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _SERVE, str(model), str(path), "embed" if embed else ""],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
        )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == b"ready\n", (folder / "log").read_text()[-2000:]
        yield Llama(path, process.pid)
    finally:
        process.stdin.close()
        process.kill()
        process.wait()
        process.stdout.close()
        path.unlink(missing_ok=True)
