"""What memory a model will take in llama.cpp, before it is loaded.

    the weights           as large as their files, which are mapped
    + what is kept        two bytes for each of ``Weights.cache``, for every token of all slots
    + what is computed    some rows of an embedding's width for each token that is read at once
    + the program itself

An encoder keeps nothing, and reads a whole text at once, every token with every other.
Measured with xllamacpp 2026.10 on Linux: SmolLM2-135M in Q4_1 and BF16 with 512 to 8,192 tokens,
and all-MiniLM-L6-v2 with 128 and 512, each with its context full; within 10 %.

Pure.
"""

from typing import Final

from node.engine.facts import Weights

BASE: Final = 52 << 20
"""Bytes of the program without any model: Python, llama.cpp, its HTTP server's threads."""
AT_ONCE: Final = 512
"""Tokens of a prompt that llama.cpp reads in one step."""
ROWS: Final = 16
"""Numbers in four bytes that a step holds for each token, in widths of an embedding."""
CACHED: Final = 2
"""Bytes of one number that is kept of a token: f16."""
PAIRS: Final = 4
"""Numbers in four bytes that an encoder holds for each pair of tokens and head."""


def estimate(weights: Weights, context: int, slots: int) -> int:
    """Return bytes: ``slots`` requests at the same time, each of up to ``context`` tokens.

    Of weights that are converted first, ask with those that come out. An encoder is never given
    more than it was trained for: it has no positions beyond.
    """
    if not weights.cache and weights.context:
        context = min(context, weights.context)
    at_once = max(context, 1) if weights.purpose == "embed" else AT_ONCE
    computed = 4 * ROWS * weights.embedding * at_once
    if not weights.cache:
        computed += 4 * PAIRS * weights.heads * at_once**2
    kept = CACHED * weights.cache * context * slots
    return weights.size + kept + computed + BASE
