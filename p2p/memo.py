"""Remembering what was found in some bytes: a statement is asked about many times in a row.

For pure functions alone, whose results nobody changes. Bytes of strangers are remembered too, so it
is of few, and of none that are large.
"""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Final, TypeVar

T = TypeVar("T")

MOST: Final = 8
"""Results of one function that are remembered, those that were asked for last."""
LARGEST: Final = 1 << 20
"""Bytes up to which that is done: the statement of some thousand files. So what is kept for one
function are 8 MiB at most, and what was read from them."""


def remembered(function: Callable[[bytes], T]) -> Callable[[bytes], T]:
    """Have a pure function of some bytes remember; what it raises it raises anew."""
    lately = lru_cache(maxsize=MOST)(function)

    @wraps(function)
    def ask(data: bytes) -> T:
        return lately(data) if len(data) <= LARGEST else function(data)

    return ask
