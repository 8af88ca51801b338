"""Reading typed fields out of JSON objects that strangers sent, with errors that name the field.

Pure. Knows nothing of what the fields mean; every error is ``VerificationFailed``, and shows only
the beginning of what came.
"""

import re
from base64 import b64decode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar

from p2p.cid import CID, Codec
from p2p.errors import UsageError, VerificationFailed

_T = TypeVar("_T")
_KINDS: Final = {
    dict: "an object",
    list: "a list",
    str: "a text",
    int: "a whole number",
    bool: "true or false",
}
_TIME: Final = re.compile("[0-9]{4}(?:-[0-9]{2}){2}T[0-9]{2}(?::[0-9]{2}){2}Z")
_SHOWN: Final = 60  # characters of a wrong value that an error repeats


@dataclass(frozen=True, slots=True)
class Fields:
    """A JSON object, and what errors call it: ``predicate.content``."""

    value: dict[str, Any]
    name: str

    @classmethod
    def of(cls, value: object, name: str) -> "Fields":
        """Take a value that must be an object."""
        if not isinstance(value, dict):
            raise _unexpected(name, value, _KINDS[dict])
        return cls(value, name)

    def __contains__(self, key: str) -> bool:
        return key in self.value

    def get(self, key: str, kind: type[_T]) -> _T:
        """Return a field of exactly this type: true is no whole number."""
        value = self.value.get(key)
        if type(value) is not kind:
            raise _unexpected(self._name(key), value, _KINDS[kind])
        return value

    def child(self, key: str) -> "Fields":
        """Return a field that is an object."""
        return Fields.of(self.value.get(key), self._name(key))

    def children(self, key: str, limit: int) -> list["Fields"]:
        """Return a field that is a list of at most ``limit`` objects."""
        values = self._list(key, limit)
        return [Fields.of(value, f"{self._name(key)}[{i}]") for i, value in enumerate(values)]

    def texts(self, key: str, pattern: re.Pattern[str], limit: int) -> tuple[str, ...]:
        """Return a field that is a list of at most ``limit`` texts, each wholly of this form."""
        values = self._list(key, limit)
        return tuple(
            _text(f"{self._name(key)}[{i}]", value, pattern) for i, value in enumerate(values)
        )

    def text(self, key: str, pattern: re.Pattern[str]) -> str:
        """Return a field that is a text wholly of this form."""
        return _text(self._name(key), self.value.get(key), pattern)

    def time(self, key: str) -> str:
        """Return a field that is a UTC time like 2026-11-22T00:00:00Z, which there was or will be.

        Times of this form are in the order of their texts.
        """
        text = self.text(key, _TIME)
        try:
            datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ")
        except ValueError as exc:
            raise VerificationFailed(f"{self._name(key)} is {text}, which is no time.") from exc
        return text

    def base64(self, key: str) -> bytes:
        """Return the bytes of a field in base64.

        There are several spellings of one value: who cares writes it again and compares.
        """
        try:
            return b64decode(self.get(key, str), validate=True)
        except ValueError as exc:
            raise VerificationFailed(f"{self._name(key)} is not base64.") from exc

    def one_of(self, key: str, choices: Iterable[str]) -> str:
        """Return a field that is one of these texts."""
        value, choices = self.value.get(key), [str(choice) for choice in choices]
        if value not in choices:
            raise _unexpected(self._name(key), value, " or ".join(choices))
        return str(value)

    def cid(self, key: str, *codecs: Codec) -> CID:
        """Return a field that is a CID of one of these codecs."""
        text = self.get(key, str)
        try:
            cid = CID.parse(text)
        except UsageError as exc:
            raise VerificationFailed(f"{self._name(key)} is no CID: {exc}") from exc
        if cid.codec not in codecs:
            names = " or ".join(codec.name for codec in codecs)
            raise _unexpected(self._name(key), text, f"a CID of the codec {names}")
        return cid

    def _list(self, key: str, limit: int) -> list[Any]:
        values = self.get(key, list)
        if len(values) > limit:
            raise VerificationFailed(
                f"{self._name(key)} has {len(values)} items, the limit is {limit}."
            )
        return values

    def _name(self, key: str) -> str:
        return f"{self.name}.{key}" if self.name else key


def _text(name: str, value: object, pattern: re.Pattern[str]) -> str:
    """Return ``value`` if it is a text wholly of this form."""
    if not isinstance(value, str) or pattern.fullmatch(value) is None:
        raise _unexpected(name, value, f"a text of the form {pattern.pattern}")
    return value


def _unexpected(name: str, value: object, expected: str) -> VerificationFailed:
    """Say what was expected and what came."""
    if value is None:
        return VerificationFailed(f"{name} is missing, {expected} was expected.")
    came = repr(value)
    came = came if len(came) <= _SHOWN else came[:_SHOWN] + "..."
    return VerificationFailed(f"{name} is {came}, {expected} was expected.")
