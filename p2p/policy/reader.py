"""Reading a policy: TOML in, a ``Policy`` out, or a ``ConfigError`` that names the key.

Nothing is guessed: an unknown key, a misspelt choice, a name that is not in ``[publishers]`` is an
error, since a rule that silently doesn't hold is worse than none.
The policy of a community comes from a stranger, so everything is bounded, and the keys that would
let anything in are refused there.

Pure. Specification: docs/reference/policy.md; the table of keys is in ``keys``.
"""

import re
import tomllib
from collections.abc import Callable, Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import Any, Final, Literal, TypeVar, get_args

from p2p.errors import ConfigError, UsageError, VerificationFailed
from p2p.keys import PublicKey
from p2p.paths import check_path
from p2p.policy.keys import KEYS
from p2p.policy.model import (
    FORMATS,
    Licenses,
    Lineage,
    Need,
    Party,
    Policy,
    Rule,
    Subscription,
    Tofu,
)
from p2p.policy.web import HUB_HOSTS, Web, check_host, check_local_host
from p2p.references import PETNAME, publisher_cid

MAX_POLICY: Final = 1 << 20
"""Characters of a policy: thousands of rules fit, a wrong file doesn't."""
MAX_DOTS: Final = 512
"""Dots in one line: the time that a dotted key takes grows with the square of its parts."""
MAX_RULES: Final = 1000
"""Rules of one policy: each may be asked for each release."""
MAX_PUBLISHERS: Final = 10_000
"""Petnames: more than a person knows, and as many as an organisation may have."""
MAX_LIST: Final = 1000
"""Values of one list."""
MAX_TEXT: Final = 1024
"""Characters of one value: a reference with a few peers."""
MAX_VOTES: Final = 64
"""Signatures or statements that can be asked for: a release has no more bundles."""
MAX_DEPTH: Final = 64
"""Generations of ancestors: as everywhere that lineage is walked."""
MAX_LISTS: Final = 64
"""Deny lists, and subscriptions: each is a file that is read, and asked for every request."""

PUBLISHER: Final = re.compile("b[a-z0-9]{40,}")
"""What is meant as a publisher's id, right or wrong: longer than any petname."""
_AGE: Final = re.compile("([0-9]{1,5})([hdwy])")
_HOURS: Final = {"h": 1, "d": 24, "w": 24 * 7, "y": 24 * 365}
_KNOWN: Final = {key.name: key for key in KEYS}

T = TypeVar("T")
Choice = Literal["allow", "refuse"]


def read_policy(text: str, *, community: bool = False) -> Policy:
    """Read a policy, the owner's or a community's; ``ConfigError`` names the key that is wrong."""
    if len(text) > MAX_POLICY:
        raise ConfigError(f"A policy has at most {MAX_POLICY:,} characters, not {len(text):,}.")
    if any(line.count(".") > MAX_DOTS for line in text.split("\n")):
        raise ConfigError(f"A line of a policy has at most {MAX_DOTS} dots.", next="Break it up.")
    try:
        document = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as exc:
        raise ConfigError(
            f"The policy is not valid TOML: {_clip(str(exc))}.", next="Mend that line."
        ) from exc
    return _Reader(community).read(document)


def check_publisher(text: str) -> str:
    """Return a publisher's id; ``UsageError`` for what cannot be one."""
    return str(publisher_cid(text))


def check_petname(text: str) -> str:
    """Return a petname; ``UsageError`` for what cannot be one."""
    if PETNAME.fullmatch(text) is None or PUBLISHER.fullmatch(text):
        raise UsageError(
            f"A petname has letters, digits, '.', '_' and '-', and fewer than an id; this is "
            f"{text[:80]!r}."
        )
    return text


class _Table:
    """A table of the file, and where it stands; each value is asked for once, by its kind."""

    def __init__(self, value: Any, where: str, generic: str, community: bool) -> None:
        self.where, self._generic = where, generic
        if not isinstance(value, dict):
            raise _wrong(where or "policy.toml", "a table", value)
        self._value: dict[str, Any] = value
        known = {
            name.removeprefix(f"{generic}.").partition(".")[0].removesuffix("[]"): name
            for name in _KNOWN
            if not generic or name.startswith(f"{generic}.")
        }
        for key in value:
            if key not in known and "*" not in known:
                near = get_close_matches(key, known, n=1)
                raise ConfigError(
                    f"There is no policy key {_clip(self._name(key))}.",
                    next=f"Did you mean {self._name(near[0])}?" if near else
                    "docs/reference/policy.md lists every key.",
                )  # fmt: skip
            if community and key in known and not _KNOWN[known[key]].community:
                raise ConfigError(
                    f"The policy of a community can forbid more, but it cannot have {key}."
                )

    def _name(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def _key(self, key: str) -> str:
        """Return what the table of keys says that this key expects."""
        return _KNOWN[f"{self._generic}.{key}" if self._generic else key].expects

    def items(self) -> Mapping[str, Any]:
        return self._value

    def get(self, key: str, read: Callable[[Any], T], default: T) -> T:
        """Return a key's value as ``read`` makes it; what that refuses is named."""
        if key not in self._value:
            return default
        try:
            return read(self._value[key])
        except ConfigError:
            raise
        except (ValueError, UsageError, VerificationFailed) as exc:
            raise _wrong(self._name(key), self._key(key), self._value[key]) from exc

    def table(self, key: str, community: bool) -> "_Table":
        generic = f"{self._generic}.{key}" if self._generic else key
        return _Table(self._value.get(key, {}), self._name(key), generic, community)

    def tables(self, key: str, limit: int, community: bool) -> "list[_Table]":
        values = self._value.get(key, [])
        if not isinstance(values, list):
            raise _wrong(self._name(key), f"tables [[{key}]]", values)
        if len(values) > limit:
            raise ConfigError(f"A policy has at most {limit} [[{key}]], not {len(values)}.")
        return [
            _Table(value, f"{key}[{number}]", f"{key}[]", community)
            for number, value in enumerate(values)
        ]


class _Reader:
    def __init__(self, community: bool) -> None:
        self._community = community
        self._publishers: dict[str, str] = {}

    def read(self, document: dict[str, Any]) -> Policy:
        top = _Table(document, "", "", self._community)
        names = top.table("publishers", self._community)
        if len(names.items()) > MAX_PUBLISHERS:
            raise ConfigError(f"A policy has at most {MAX_PUBLISHERS:,} publishers.")
        for name, id in names.items().items():
            try:
                self._publishers[check_petname(name)] = check_publisher(_text(id))
            except (ValueError, UsageError) as exc:
                raise ConfigError(
                    f"publishers.{_clip(name)} expects a petname and a publisher id, but "
                    f"{_clip(id)!r} came."
                ) from exc
        return Policy(
            publishers=self._publishers,
            tofu=top.get("tofu", _tofu, "ask"),
            stale=top.get("stale", _stale, "refuse"),
            rules=tuple(map(self._rule, top.tables("rules", MAX_RULES, self._community))),
            deny=top.get("deny", self._files, ()),
            subscriptions=tuple(
                Subscription(_required(one), one.get("endorsers", _flag, True))
                for one in top.tables("subscribe", MAX_LISTS, self._community)
            ),
            web=self._web(top.table("web", self._community)),
        )

    def _web(self, table: _Table) -> Web:
        return Web(
            table.get("seeds", _seeds, "allow"),
            table.get("hosts", lambda value: tuple(map(check_host, _texts(value))), HUB_HOSTS),
            table.get("local_hosts", lambda value: tuple(map(check_local_host, _texts(value))), ()),
        )

    def _rule(self, table: _Table) -> Rule:
        require = table.table("require", self._community)
        lineage = table.table("lineage", self._community)
        licenses = table.table("licenses", self._community)
        return Rule(
            where=table.where,
            kinds=table.get("kind", _kinds, ()),
            publishers=table.get("publisher", self._publisher_list, ()),
            names=table.get("name", _texts_or_one, ()),
            refuse=table.get("refuse", _text, ""),
            signatures=self._need(require, "signatures"),
            endorsements=self._need(require, "endorsements"),
            evaluations=self._need(require, "evaluations"),
            licenses=Licenses(licenses.get("allow", _texts, None), licenses.get("deny", _texts, ()))
            if licenses.items()
            else None,
            formats=table.get("formats", _formats, None),
            lineage=Lineage(
                lineage.get("depth", _number(0, MAX_DEPTH), None),
                lineage.get("unknown", _choice, None),
                lineage.get("revoked", _choice, None),
            ),
            stale=table.get("stale", _stale, None),
        )

    def _need(self, require: _Table, name: str) -> Need | None:
        if name not in require.items():
            return None
        table = require.table(name, self._community)
        need = Need(
            table.get("count", _number(1, MAX_VOTES), 1),
            table.get("by", self._parties, ()),
            table.get("max_age", _age, None),
        )
        different = {one.voice for one in need.by}
        if need.by and need.count > len(different):
            raise ConfigError(
                f"{table.where} asks for {need.count} of {len(different)}, which can never be.",
                next=f"Name more in {table.where}.by, or lower {table.where}.count.",
            )
        return need

    def _files(self, value: Any) -> tuple[str, ...]:
        files = _texts(value)
        if len(files) > MAX_LISTS:
            raise ValueError
        if self._community:
            for file in files:
                check_path(file)
        return files

    def _parties(self, value: Any) -> tuple[Party, ...]:
        return tuple(map(self._party, _some(_texts(value))))

    def _publisher_list(self, value: Any) -> tuple[Party, ...]:
        found = tuple(map(self._party, _texts_or_one(value)))
        if any(one.publisher is None for one in found):
            raise ValueError
        return found

    def _party(self, text: str) -> Party:
        if text.startswith("did:key:"):
            return Party(text, key=PublicKey.from_did(text))
        if text in self._publishers:
            return Party(text, publisher=self._publishers[text])
        if PUBLISHER.fullmatch(text) is None:
            raise ConfigError(
                f"The policy names {_clip(text)!r}, who is not in [publishers].",
                next=f"`allod trust add PUBLISHER_ID --as {_clip(text)}` says who that is.",
            )
        return Party(text, publisher=check_publisher(text))


# --- kinds of values -----------------------------------------------------------------------------


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > MAX_TEXT:
        raise ValueError
    if any(not character.isprintable() for character in value):
        raise ValueError
    return value


def _texts(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > MAX_LIST:
        raise ValueError
    return tuple(map(_text, value))


def _texts_or_one(value: Any) -> tuple[str, ...]:
    return (_text(value),) if isinstance(value, str) else _some(_texts(value))


def _some(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Refuse an empty list where none would mean all: nobody could tell what was meant."""
    if not texts:
        raise ValueError
    return texts


def _kinds(value: Any) -> tuple[str, ...]:
    kinds = _texts_or_one(value)
    if not set(kinds) <= {"model", "dataset"}:
        raise ValueError
    return kinds


def _formats(value: Any) -> frozenset[str]:
    formats = frozenset(_texts(value))
    if not formats <= set(FORMATS):
        raise ValueError
    return formats


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError
    return value


def _tofu(value: Any) -> Tofu:
    return _one_of(value, get_args(Tofu))


def _stale(value: Any) -> Literal["refuse", "warn"]:
    return _one_of(value, ("refuse", "warn"))


def _seeds(value: Any) -> Literal["allow", "never"]:
    return _one_of(value, ("allow", "never"))


def _choice(value: Any) -> Choice:
    return _one_of(value, get_args(Choice))


def _one_of(value: Any, choices: tuple[T, ...]) -> T:
    for choice in choices:
        if value == choice:
            return choice
    raise ValueError


def _number(low: int, high: int) -> Callable[[Any], int]:
    def read(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise ValueError
        return value

    return read


def _age(value: Any) -> timedelta:
    found = _AGE.fullmatch(_text(value))
    if found is None:
        raise ValueError
    return timedelta(hours=int(found[1]) * _HOURS[found[2]])


def _required(table: _Table) -> str:
    ref = table.get("ref", _text, "")
    if not ref:
        raise ConfigError(f"{table.where}.ref is missing: which release holds that policy?")
    return ref


def _wrong(name: str, expects: str, value: Any) -> ConfigError:
    return ConfigError(f"{_clip(name)} expects {expects}, but {_clip(repr(value))} came.")


def _clip(value: Any) -> str:
    text = str(value)
    text = "".join(one if one.isprintable() else "?" for one in text[:100])
    return text if len(text) <= 80 else text[:77] + "..."
