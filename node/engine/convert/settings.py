"""A ``config.json`` as a conversion reads it: every value of its kind and within its bounds.

A value that is missing, wrong or beyond what is known here ends the conversion: a default that was
guessed would make a model that answers nearly right.
Pure.
"""

import math
from collections.abc import Collection, Mapping
from typing import Any

from node.engine.facts import bounded
from p2p.errors import Unsupported, VerificationFailed


class Settings:
    """The members of a JSON object."""

    def __init__(self, values: Mapping[str, Any], name: str = "config.json") -> None:
        self.values = values
        self.name = name

    def has(self, key: str) -> bool:
        """Say whether there is a value, and not null."""
        return self.values.get(key) is not None

    def number(self, key: str, most: int, default: int | None = None) -> int:
        """Return a whole number from 1 to ``most``."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        return bounded(value, key, most)

    def real(self, key: str, default: float | None = None) -> float:
        """Return a number, finite and more than nothing."""
        value = self.values.get(key)
        if value is None and default is not None:
            return default
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise VerificationFailed(f"{self.name} should have a number as {key}.")
        if not 0 < value < 1e18 or not math.isfinite(value):
            raise VerificationFailed(f"{self.name} has a {key} that no model has.")
        return float(value)

    def flag(self, key: str, default: bool = False) -> bool:
        """Return a truth value."""
        value = self.values.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise VerificationFailed(f"{self.name} should have true or false as {key}.")
        return value

    def inner(self, key: str) -> "Settings":
        """Return the object under a key, an empty one where there is none."""
        value = self.values.get(key)
        if value is not None and not isinstance(value, Mapping):
            raise VerificationFailed(f"{self.name} should have an object as {key}.")
        return Settings(value or {}, f"{self.name}, {key}")

    def expect(self, key: str, known: Collection[Any]) -> None:
        """Raise ``Unsupported`` unless a value is one of those that are known here."""
        value = self.values.get(key)
        if not isinstance(value, str | bool | int | float | None) or value not in known:
            raise Unsupported(
                f"A model whose {key} is {value!s:.60} is not converted.",
                next="serve.engine = transformers runs it, if that is installed.",
            )
