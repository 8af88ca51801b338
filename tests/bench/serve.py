"""What the door costs: the same questions to an engine directly and through the node, in turn.

    python -m tests.bench.serve [--rounds N] [--tokens N] [--json FILE]

A node serves SmolLM2-135M, and an engine that is started alike runs beside it. The same client asks
the engine on its own socket, and the node's OpenAI-compatible door; one stream at a time, then four
at once. Tokens a second and the time to the first token are medians over the rounds, the ratios are
medians of ratios within a round.
"""

import argparse
import json
import os
import shutil
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx
import trio

from node.engine.engines import Plan, Xllamacpp
from node.engine.supervisor import open_engine, run_folder
from node.engine.weights import inspect
from tests.bench.machine import describe
from tests.models import smollm2_gguf
from tests.network.people import Person

STREAMS: Final = (1, 4)
QUESTION: Final = "Write a short story about a lighthouse keeper and a storm."
MODEL: Final = "alice/smol"


@dataclass(frozen=True, slots=True)
class Sample:
    """One go: tokens a second over all streams, and milliseconds to the first token of each."""

    rate: float
    first: list[float]


async def ask(client: httpx.AsyncClient, tokens: int, first: list[float]) -> int:
    """Ask once, streamed; the number of tokens that came."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": QUESTION}],
        "stream": True,
        "max_tokens": tokens,
        "temperature": 0.8,
        "seed": 1,
    }
    begin, count = time.perf_counter(), 0
    async with client.stream("POST", "chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith("data: {") and '"content":"' in line:
                if not count:
                    first.append(1000 * (time.perf_counter() - begin))
                count += 1
    return count


async def go(client: httpx.AsyncClient, streams: int, tokens: int) -> Sample:
    """Ask ``streams`` times at once."""
    first: list[float] = []
    counts: list[int] = []

    async def one() -> None:
        counts.append(await ask(client, tokens, first))

    begin = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(streams):
            nursery.start_soon(one)
    return Sample(sum(counts) / (time.perf_counter() - begin), first)


@asynccontextmanager
async def served(folder: Path) -> AsyncIterator[dict[str, httpx.AsyncClient]]:
    """A node that serves the model, and an engine beside it, started alike: a client of each.

    The node's own engine is not asked directly: the node stops one that works for nobody it knows.
    """
    source = folder / "smol"
    source.mkdir()
    shutil.copy(smollm2_gguf(), source / "smol.gguf")
    alice = Person(folder / "a")
    await alice.run("key", "new", "alice")
    await alice.run("publish", str(source), "--as", MODEL, "--license", "Apache-2.0")
    patience = httpx.Timeout(600)
    async with alice.node("--offline"), run_folder(folder / "r") as place:
        found = await alice.run("serve", MODEL, "--slots", str(max(STREAMS)))
        weights = await trio.to_thread.run_sync(inspect, source)
        plan = Plan(
            model=source / "smol.gguf",
            name=MODEL,
            weights=weights,
            context=found["context"],
            slots=found["slots"],
            threads=max(1, (os.cpu_count() or 2) - 1),
            estimate=found["memory"],
            folder=place,
        )
        async with open_engine(Xllamacpp(), plan, start_within=60) as engine:
            transport = httpx.AsyncHTTPTransport(uds=str(engine.socket))
            url = "http://engine/v1/"
            async with (
                httpx.AsyncClient(transport=transport, base_url=url, timeout=patience) as direct,
                httpx.AsyncClient(base_url=found["url"] + "/", timeout=patience) as door,
            ):
                yield {"engine": direct, "door": door}


async def measure(rounds: int, tokens: int, folder: Path) -> list[dict[str, Any]]:
    """All goes, in turn; who begins changes from round to round."""
    rows = []
    async with served(folder) as clients:
        for client in clients.values():  # once, to have everything loaded
            await go(client, 1, 4)
        for streams in STREAMS:
            samples: dict[str, list[Sample]] = {name: [] for name in clients}
            for number in range(rounds):
                order = list(clients) if number % 2 else list(reversed(clients))
                for name in order:
                    samples[name].append(await go(clients[name], streams, tokens))
            rows.append(_row(streams, samples))
    return rows


def _row(streams: int, samples: dict[str, list[Sample]]) -> dict[str, Any]:
    def first(name: str) -> float:
        return statistics.median(one for sample in samples[name] for one in sample.first)

    pairs = list(zip(samples["door"], samples["engine"], strict=True))
    return {
        "streams": streams,
        "engine_tokens_s": statistics.median(one.rate for one in samples["engine"]),
        "door_tokens_s": statistics.median(one.rate for one in samples["door"]),
        "ratio": statistics.median(door.rate / engine.rate for door, engine in pairs),
        "ratios": [round(door.rate / engine.rate, 3) for door, engine in pairs],
        "first_token_ms_engine": first("engine"),
        "first_token_ms_door": first("door"),
        "first_token_ms_more": statistics.median(
            statistics.median(door.first) - statistics.median(engine.first)
            for door, engine in pairs
        ),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, and write the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.serve", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="allod-") as name:
        folder = Path(name)
        machine = describe(folder)
        rows = trio.run(measure, given.rounds, given.tokens, folder)
    if given.json:
        given.json.write_text(json.dumps({"machine": machine, "rows": rows}, indent=1))
    for topic, text in machine.items():
        print(f"{topic}: {text}")
    print("\n| streams | engine, tokens/s | door, tokens/s | ratio | first token, ms more |")
    print("| --- | --- | --- | --- | --- |")
    for row in rows:
        print(
            f"| {row['streams']} | {row['engine_tokens_s']:.1f} | {row['door_tokens_s']:.1f} "
            f"| {row['ratio']:.3f} | {row['first_token_ms_more']:.1f} |"
        )


if __name__ == "__main__":
    main()
