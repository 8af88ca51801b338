"""huggingface_hub, as a person uses it, against a server on this machine that has one repository.

Over plain HTTP and with hf_xet off, which only the real Hub can serve; it checks sizes, no hashes.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.bench.agent import AgentRival, Fetch, Json, run_agent
from tests.bench.rivals.web import REPO, serve

RIVALS = [AgentRival("huggingface-hub", __name__, "", ("huggingface_hub",))]


@contextmanager
def receive(card: Json, home: Path, option: str) -> Iterator[Fetch]:
    """Download a snapshot into a cache of its own."""
    os.environ |= {
        "HF_ENDPOINT": card["http"],
        "HF_HOME": str(home / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    from huggingface_hub import snapshot_download

    def fetch() -> float:
        begin = time.perf_counter()
        snapshot_download(REPO)
        return time.perf_counter() - begin

    yield fetch


if __name__ == "__main__":
    run_agent(serve, receive)
