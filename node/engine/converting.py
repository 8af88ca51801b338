"""A conversion, run as what it is: a stranger's file read by a program of its own, confined.

The program is ``node.engine.convert``; it gets the release's folder to read and one folder to write
into, no network, no other process, a bounded file, and memory for some tensors. What it prints are
the lines of node/messages.py.
"""

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from subprocess import PIPE
from typing import Final

import trio

from node.engine.confine import QUIET_DEVICES, Confinement, usual_places
from node.engine.facts import Weights
from node.messages import Failure, Progress, Report, decode
from p2p.errors import EngineError, UsageError

MEMORY: Final = 4 << 30
"""Bytes of address space besides the mapped weights: numpy, and a tensor or two unpacked."""
HEAD: Final = 512 << 20
"""Bytes of a GGUF file besides its tensors, which take at most twice what they took before."""
SILENCE: Final = 300.0
"""Seconds without a word after which a conversion is taken for stuck."""
MAX_LINE: Final = 64 << 10


async def convert(folder: Path, target: Path, kind: str, weights: Weights, report: Report) -> None:
    """Make ``target``, a GGUF file, of a folder of safetensors; it is there whole or not at all.

    ``kind``: what the tensors become. Raises what the conversion ended with, ``EngineError`` if it
    died or fell silent.
    """
    rules = Confinement(
        memory=MEMORY + 2 * weights.size,
        write=HEAD + 2 * weights.size,
        readable=usual_places(more=(str(folder),)),
        writable=(str(target.parent),),
        devices=QUIET_DEVICES,
    )
    argv = [sys.executable, "-I", "-m", "node.engine.convert", str(folder), str(target)]
    plan = {
        "argv": [*argv, "--type", kind],
        "env": {"PATH": os.defpath, "HOME": "/nonexistent", "LC_ALL": "C.UTF-8",
                "OPENBLAS_NUM_THREADS": "1"},
        "cwd": "/",
        "rules": asdict(rules),
    }  # fmt: skip
    process = await trio.lowlevel.open_process(
        [sys.executable, "-I", "-m", "node.engine.keeper", json.dumps(plan)],
        stdin=PIPE, stdout=PIPE, stderr=PIPE, env={"PATH": os.defpath}, start_new_session=True,
    )  # fmt: skip
    try:
        failure, words = await _listen(process, report)
        code = await process.wait()
    finally:
        with trio.CancelScope(shield=True):
            assert process.stdin is not None
            await process.stdin.aclose()  # its keeper ends it
            await process.wait()
    if failure is not None:
        raise failure.error()
    if code != 0:
        raise EngineError(
            f"The conversion of {folder.name} ended with {code}: {words or 'it said nothing'}",
            next="Serve it with another engine, or a release that has GGUF files.",
        )


async def _listen(process: trio.Process, report: Report) -> tuple[Failure | None, str]:
    """Read what it prints until it ends: its error, and its last words on stderr."""
    failure: Failure | None = None
    words = b""
    silent = trio.CancelScope(deadline=trio.current_time() + SILENCE)

    async def read_words() -> None:
        nonlocal words
        assert process.stderr is not None
        async with process.stderr as stream:
            async for data in stream:
                words = (words + data)[-400:]

    def take(line: bytes) -> None:
        nonlocal failure
        try:
            said = decode(line)
        except UsageError:
            return  # a word of some library's
        if isinstance(said, Failure):
            failure = said
        elif isinstance(said, Progress):
            report(said)

    with silent:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(read_words)
            assert process.stdout is not None
            async with process.stdout as stream:
                rest = b""
                async for data in stream:
                    silent.deadline = trio.current_time() + SILENCE
                    *lines, rest = (rest + data)[-MAX_LINE:].split(b"\n")
                    for line in lines:
                        take(line)
    if silent.cancelled_caught:
        raise EngineError(
            f"The conversion said nothing for {SILENCE:g} s, and was stopped.",
            next="Serve it with another engine, or a release that has GGUF files.",
        )
    said = words.decode(errors="replace").strip().splitlines()
    return failure, said[-1] if said else ""
