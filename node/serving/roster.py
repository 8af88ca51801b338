"""Which releases this node serves, and how: a small file that outlives the node.

It is this machine's own file, and read with care all the same: a hand may have edited it.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final

from node.store import durable
from p2p.cid import CID
from p2p.errors import AllodError, StoreError

MAX_FILE: Final = 4 << 20
"""Bytes of the file: some hundred for each model."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One served release; 0 and empty texts mean: as the configuration says."""

    name: str
    """What clients call it."""
    manifest: CID
    aliases: tuple[str, ...] = ()
    file: str = ""
    """Which of several GGUF files of the release."""
    context: int = 0
    slots: int = 0
    engine: str = ""
    share: bool = False
    """Peers whom ``serve.peers`` names may ask it."""
    via_peers: bool = False
    """Peers may answer when this node cannot, and see the prompt."""
    remote: bool = False
    """Peers alone answer: its engine was stopped for good."""
    upstream: str = ""
    """URL of the OpenAI-compatible server that answers in an engine's place: https://host/v1."""
    upstream_model: str = ""
    """What the model is called there."""
    upstream_key_file: str = ""
    """File that holds the secret which that server wants; the secret itself is never kept here."""


def read_roster(file: Path) -> list[Entry]:
    """Return the entries; none where there is no file. ``StoreError`` if it is damaged."""
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE + 1)
        if len(data) > MAX_FILE:
            raise ValueError(f"it has more than {MAX_FILE} bytes")
        return [_entry(one) for one in json.loads(data)["served"]]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError, RecursionError, AllodError) as exc:
        raise StoreError(
            f"{file}, the list of served models, cannot be read: {exc}.",
            next="Mend it or remove it, and `allod serve` the models again.",
        ) from exc


def _entry(value: dict[str, Any]) -> Entry:
    known = {one.name: value[one.name] for one in fields(Entry) if one.name in value}
    known["manifest"] = CID.parse(known["manifest"])
    known["aliases"] = tuple(str(one) for one in known.get("aliases", ()))
    entry = Entry(**known)
    for one in fields(Entry):
        wanted = {"manifest": CID, "aliases": tuple}.get(one.name, type(one.default))
        if one.name == "name":
            wanted = str
        if not isinstance(getattr(entry, one.name), wanted):
            raise ValueError(f"{one.name} is not a {wanted.__name__}")
    return entry


async def write_roster(file: Path, entries: Sequence[Entry]) -> None:
    """Write the list, whole or not at all."""
    shown = [asdict(one) | {"manifest": str(one.manifest)} for one in entries]
    data = json.dumps({"served": shown}, indent=1, ensure_ascii=False).encode()

    def write() -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        durable.replace_file(file, data, file.parent)

    await durable.on_disk("keep the list of served models", write)
