"""The runner of the default engine: llama.cpp's server, in this process, on a Unix socket.

``python -I -m node.engine.xllama PLAN``, as a keeper's child: the plan is JSON with the model's
file, the socket, the name that answers are to carry, and the sizes. It prints ``ready`` once it
answers; where the model cannot be loaded, llama.cpp has said why on stderr, and it ends with 1.
"""

import json
import os
import signal
import sys
from typing import Any, Final

HTTP_THREADS: Final = 4
"""Threads for HTTP beyond one a slot: for those who ask how it is."""


def main(plan: dict[str, Any]) -> int:
    """Serve until SIGTERM; the exit code."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = plan["model"]
    params.model_alias = {plan["alias"]}
    params.hostnames = [plan["socket"]]
    params.n_ctx = plan["context"] * plan["slots"]
    params.n_parallel = plan["slots"]
    params.n_threads_http = plan["slots"] + HTTP_THREADS
    params.cpuparams.n_threads = plan["threads"]
    params.cpuparams_batch.n_threads = plan["threads"]
    params.offline = True
    params.ui = False
    params.endpoint_slots = False
    params.cache_ram_mib = 0  # prompts of others are not kept
    params.ctx_shift = False
    params.fit_params = False
    params.use_jinja = True
    params.n_gpu_layers = plan["gpu_layers"]
    if plan["embed"]:
        params.embedding = True
        params.n_batch = params.n_ubatch = plan["context"]  # an encoder sees its input at once
        if plan["pooling"]:
            pooling = xllamacpp.llama_pooling_type
            params.pooling_type = getattr(pooling, f"LLAMA_POOLING_TYPE_{plan['pooling'].upper()}")
    os.umask(0o077)
    try:
        server = xllamacpp.Server(params)
    except RuntimeError as exc:
        print(exc, file=sys.stderr)
        return 1
    print("ready", flush=True)
    signal.sigwait({signal.SIGTERM})
    os._exit(0)  # its threads have nothing to finish, and may be in the middle of an answer
    del server


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    sys.exit(main(json.loads(sys.argv[1])))
