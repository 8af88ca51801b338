"""The engines: what each can run, and how it is started.

An engine is a program that speaks OpenAI's HTTP on a Unix socket. This module knows the command
lines and what each program can do; it starts nothing. Which one a model gets is the first of
``ENGINES`` that is installed and suits it, unless the owner named one.

    llama-server    llama.cpp as it was built for this machine: GPU, all its tricks
    xllamacpp       the same as a wheel (the extra ``serve``), in a runner of ours
    vllm            safetensors where there is a GPU (installed by the owner)
    transformers    everything else (the extra ``transformers``)

The last two speak TCP among their own parts; ``tcp_runner`` brings them to the socket.
"""

import importlib.util
import json
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal, Protocol

from node.engine.confine import QUIET_DEVICES, Confinement, usual_places
from node.engine.weights import Weights
from node.inference import Capability
from p2p.errors import NoEngine

SLACK: Final = 1 << 30
"""Bytes of address space beyond what a model is estimated to take: libraries, stacks, heaps."""

GPU_WRITES: Final = 1 << 30
"""Bytes of one file that a GPU's driver may write, in memory mostly: what it compiled."""
TCP_WRITES: Final = 4 << 30
"""The same for vLLM and transformers: what torch compiled, and caches in the run's folder."""

_GPU_DEVICES: Final = ("/dev/nvidia0", "/dev/kfd", "/dev/dri/renderD128")
_GPU_PLACES: Final = ("/dev/dri", "/dev/kfd", "/dev/nvidiactl", "/dev/nvidia-uvm",
                      *(f"/dev/nvidia{number}" for number in range(16)))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Plan:
    """How a model is to be run; ``estimate``: bytes of memory that it will take."""

    model: Path
    """The GGUF file (its first shard), or the folder of a safetensors model."""
    name: str
    weights: Weights
    context: int
    """Tokens of one request."""
    slots: int
    threads: int
    estimate: int
    folder: Path
    """A folder of this run's own, for the socket and whatever the engine must write."""

    @property
    def socket(self) -> Path:
        """Where the engine answers."""
        return self.folder / "engine.sock"


@dataclass(frozen=True, slots=True)
class Launch:
    """A command line, complete, and how to tell that the engine is ready."""

    argv: Sequence[str]
    rules: Confinement
    variables: Mapping[str, str] = field(default_factory=dict)
    ready: Literal["line", "health"] = "line"
    """line: it prints ``ready``. health: ``/health`` is asked again and again."""
    model_field: str = ""
    """What the field ``model`` of a request must be; empty: whatever it is."""
    says_done: bool = True
    """Whether its streams end with ``[DONE]``, as OpenAI's do."""


class Engine(Protocol):
    """One kind of engine."""

    name: str
    format: Literal["gguf", "safetensors"]
    """What it reads."""

    def missing(self) -> str:
        """Return what is to be installed for it; empty if it is there."""

    def unsuited(self, weights: Weights) -> str:
        """Return why it can't run a model of its format; empty if it can."""

    def capabilities(self, weights: Weights) -> frozenset[Capability]:
        """Return what can be asked of the model."""

    def launch(self, plan: Plan) -> Launch:
        """Return how it is started."""


def has_gpu() -> bool:
    """Say whether this machine has a GPU that engines use."""
    return any(os.path.exists(device) for device in _GPU_DEVICES)


def _rules(plan: Plan, *, gpu: bool, network: Literal["none", "loopback"] = "none") -> Confinement:
    """The confinement of an engine: it reads the model and the system, writes its own folder."""
    # Some kinds of quantised weights are laid out anew in memory: a second copy of them.
    memory = 2 * plan.estimate + SLACK + (64 << 20) * plan.threads
    return Confinement(
        memory=memory,
        measure="data" if gpu else "space",  # a GPU's driver reserves all the space there is
        write=GPU_WRITES if gpu else 0,  # a socket is no file
        network=network,
        processes=gpu,  # drivers start helpers; llama.cpp itself has threads only
        readable=usual_places(more=_folders(plan.model)),
        writable=(str(plan.folder),),
        devices=QUIET_DEVICES + (_GPU_PLACES if gpu else ()),
    )


def _folders(model: Path) -> tuple[str, ...]:
    """The folder of a model, and that of the file which its name may be a symbolic link to."""
    real = model.resolve()
    return tuple({str(one if one.is_dir() else one.parent) for one in (model, real)})


_WRITES: Final[frozenset[Capability]] = frozenset(
    {"completions", "json_schema", "logprobs", "choices"}
)
_TALKS: Final[frozenset[Capability]] = frozenset({*_WRITES, "chat", "responses"})
_EMBED: Final[frozenset[Capability]] = frozenset({"embeddings"})


def _llama_capabilities(weights: Weights) -> frozenset[Capability]:
    if weights.purpose == "embed":
        return _EMBED
    if not weights.template:  # a base model: llama.cpp would make up a template
        return _WRITES
    return frozenset({*_TALKS, "tools"})


class LlamaServer:
    """``llama-server`` on the PATH."""

    name = "llama-server"
    format: Literal["gguf", "safetensors"] = "gguf"

    def missing(self) -> str:
        """See Engine."""
        return "" if shutil.which("llama-server") else "llama.cpp's `llama-server`, on the PATH"

    def unsuited(self, weights: Weights) -> str:
        """See Engine: llama.cpp says itself which architectures it does not know."""
        return ""

    def capabilities(self, weights: Weights) -> frozenset[Capability]:
        """See Engine."""
        return _llama_capabilities(weights)

    def launch(self, plan: Plan) -> Launch:
        """See Engine."""
        program = os.path.realpath(shutil.which("llama-server") or "llama-server")
        argv = [
            program, "--model", str(plan.model), "--host", str(plan.socket), "--alias", plan.name,
            "--ctx-size", str(plan.context * plan.slots), "--parallel", str(plan.slots),
            "--threads", str(plan.threads), "--threads-batch", str(plan.threads),
            "--offline", "--no-slots", "--no-webui", "--jinja", "--no-context-shift",
            "--threads-http", str(plan.slots + 4),
        ]  # fmt: skip
        if plan.weights.purpose == "embed":
            argv += ["--embeddings", "--ubatch-size", str(plan.context)]
            argv += ["--pooling", plan.weights.pooling] if plan.weights.pooling else []
        rules = _rules(plan, gpu=has_gpu())
        home = os.path.dirname(os.path.dirname(program))
        places = (*rules.readable, home, os.path.join(home, "lib"))
        return Launch(argv, replace(rules, readable=places), {"MALLOC_ARENA_MAX": "2"}, "health")


class Xllamacpp:
    """llama.cpp as the wheel ``xllamacpp``."""

    name = "xllamacpp"
    format: Literal["gguf", "safetensors"] = "gguf"

    def missing(self) -> str:
        """See Engine."""
        return "" if importlib.util.find_spec("xllamacpp") else "`pip install 'allod[serve]'`"

    def unsuited(self, weights: Weights) -> str:
        """See Engine."""
        return ""

    def capabilities(self, weights: Weights) -> frozenset[Capability]:
        """See Engine."""
        return _llama_capabilities(weights)

    def launch(self, plan: Plan) -> Launch:
        """See Engine."""
        gpu = has_gpu()
        told = {
            "model": str(plan.model),
            "alias": plan.name,
            "socket": str(plan.socket),
            "context": plan.context,
            "slots": plan.slots,
            "threads": plan.threads,
            "embed": plan.weights.purpose == "embed",
            "pooling": plan.weights.pooling,
            "gpu_layers": -1 if gpu else 0,
        }
        argv = [sys.executable, "-I", "-m", "node.engine.xllama", json.dumps(told)]
        return Launch(argv, _rules(plan, gpu=gpu), {"MALLOC_ARENA_MAX": "2"})


class _OverTcp:
    """What is common to the engines that listen on TCP, in a network of their own."""

    format: Literal["gguf", "safetensors"] = "safetensors"
    PORT: Final = 8000
    needs_unix = False
    """Whether its parts talk over Unix sockets: these are not its own, as its network is."""

    def _launch(self, plan: Plan, command: list[str], model_field: str, *, gpu: bool) -> Launch:
        told = {"socket": str(plan.socket), "port": self.PORT, "argv": command,
                "needs_unix": self.needs_unix}  # fmt: skip
        argv = [sys.executable, "-I", "-m", "node.engine.tcp_runner", json.dumps(told)]
        environ = {
            "HOME": str(plan.folder),
            "TMPDIR": str(plan.folder),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_OFFLINE": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "OMP_NUM_THREADS": str(plan.threads),
            "TOKENIZERS_PARALLELISM": "false",
        }
        rules = replace(_rules(plan, gpu=gpu, network="loopback"), measure="data")
        # Their imports alone map some GiB.
        rules = replace(rules, memory=(rules.memory or 0) + (4 << 30), write=TCP_WRITES,
                        processes=True)  # fmt: skip
        return Launch(argv, rules, environ, "health", model_field)


class Vllm(_OverTcp):
    """``vllm serve``, where there is a GPU."""

    name = "vllm"
    needs_unix = True  # ZeroMQ's ipc://, between its API server and its core

    def missing(self) -> str:
        """See Engine."""
        if not has_gpu():
            return "a GPU"
        return "" if importlib.util.find_spec("vllm") else "`pip install vllm`"

    def unsuited(self, weights: Weights) -> str:
        """See Engine."""
        return ""

    def capabilities(self, weights: Weights) -> frozenset[Capability]:
        """See Engine: tools need a parser that differs by model, so they are refused."""
        if weights.purpose == "embed":
            return _EMBED
        return _TALKS if weights.template else _WRITES

    def launch(self, plan: Plan) -> Launch:
        """See Engine."""
        command = [
            sys.executable, "-m", "vllm.entrypoints.openai.api_server",
            "--model", str(plan.model), "--served-model-name", plan.name,
            "--host", "127.0.0.1", "--port", str(self.PORT),
            "--max-model-len", str(plan.context), "--max-num-seqs", str(plan.slots),
        ]  # fmt: skip
        return self._launch(plan, command, plan.name, gpu=True)


class Transformers(_OverTcp):
    """``transformers serve``: every model of the library, slowly."""

    name = "transformers"

    def missing(self) -> str:
        """See Engine."""
        there = all(importlib.util.find_spec(one) for one in ("transformers", "torch", "fastapi"))
        return "" if there else "`pip install 'allod[transformers]'`"

    def unsuited(self, weights: Weights) -> str:
        """See Engine: its server has no embeddings."""
        return "its server has no embeddings" if weights.purpose == "embed" else ""

    def capabilities(self, weights: Weights) -> frozenset[Capability]:
        """See Engine: it takes response_format, logprobs and n, and silently ignores them."""
        return frozenset({"chat", "completions"} if weights.template else {"completions"})

    def launch(self, plan: Plan) -> Launch:
        """See Engine."""
        command = [
            sys.executable, "-m", "transformers.cli.transformers", "serve", str(plan.model),
            "--host", "127.0.0.1", "--port", str(self.PORT), "--log-level", "warning",
        ]  # fmt: skip
        launch = self._launch(plan, command, str(plan.model), gpu=has_gpu())
        return replace(launch, says_done=False)


ENGINES: Final[tuple[Engine, ...]] = (LlamaServer(), Xllamacpp(), Vllm(), Transformers())


def choose(
    weights: Weights, wanted: str, *, convertible: bool, engines: Sequence[Engine] = ENGINES
) -> Engine:
    """Return the engine for a model: the one that is wanted, or the first that can.

    ``convertible``: its safetensors can be made into GGUF. NoEngine says what is missing.
    """
    reasons = []
    for engine in engines:
        if wanted not in ("auto", engine.name):
            continue
        reads = engine.format == weights.format or (engine.format == "gguf" and convertible)
        if not reads:
            reason = f"{engine.name} reads {engine.format}, and this is {weights.format}"
            reason += f" ({weights.architecture}) that is not converted" if not convertible else ""
        elif reason := engine.missing():
            reason = f"{engine.name} needs {reason}"
        elif reason := engine.unsuited(weights):
            reason = f"{engine.name} does not suit: {reason}"
        else:
            return engine
        reasons.append(reason)
    raise NoEngine(
        f"No engine here can run this {weights.format} model: {'; '.join(reasons)}.",
        next="Install one of these, or name a server that runs it: `allod serve REF --upstream`.",
    )
