"""Releases for tests: folders with known bytes, published into a store without the command line."""

import json
import random
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from node.importers.folder import walk_folder
from node.store import Store
from p2p.chunking import Profile
from p2p.envelope import sign_bundle
from p2p.keys import SecretKey
from p2p.manifest import FileEntry, Kind, Manifest, build_manifest
from tests.publishers import Publisher

KEY = Publisher().signer
PUBLISHER = Publisher().id
MIB = 1 << 20


def noise(size: int, seed: int = 0) -> bytes:
    """Bytes that look random and are the same every time."""
    return random.Random(seed).randbytes(size)


def write_folder(folder: Path, files: Mapping[str, bytes]) -> Path:
    """Write files into a folder."""
    for path, data in files.items():
        place = folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
    return folder


def safetensors_bytes(tensors: Mapping[str, bytes], metadata: Mapping[str, str]) -> bytes:
    """A safetensors file of one-dimensional U8 tensors."""
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    at = 0
    for name, data in tensors.items():
        header[name] = {"dtype": "U8", "shape": [len(data)], "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + b"".join(tensors.values())


@dataclass(frozen=True)
class Published:
    """A release as it was put into a store."""

    manifest: Manifest
    bundle: bytes
    listing: bytes | None


async def publish_into(
    store: Store,
    folder: Path,
    *,
    name: str = "tiny",
    version: str = "1",
    by: Publisher | None = None,
    signer: SecretKey | None = None,
    profile: Profile = Profile.TENSOR_1M,
    kind: Kind = "model",
    license: str = "Apache-2.0",
    lineage: Sequence[Mapping[str, Any]] = (),
    consent: Mapping[str, Any] | None = None,
    web_seeds: Sequence[str] = (),
    stated: Collection[str] = (),
) -> Published:
    """Publish a folder into a store, for a publisher that goes on from what the store knows of it.

    ``signer`` signs in the place of the publisher's key. ``stated``: paths of files of which the
    manifest states the SHA-256.
    """
    publisher = by or Publisher()
    publisher.metadata = await store.publishers.get(publisher.id) or publisher.metadata
    files = [(file.file, file.path) for file in walk_folder(folder)]
    added = await store.add_many(files, profile)
    sums = {path: sha256(file.read_bytes()).hexdigest() for file, path in files if path in stated}
    entries = [
        FileEntry(path, one.size, one.outline.root, one.outline.dag_size, sums.get(path))
        for (_, path), one in zip(files, added, strict=True)
    ]
    built = build_manifest(
        kind=kind,
        publisher=publisher.id,
        name=name,
        version=version,
        created="2026-11-22T00:00:00Z",
        files=entries,
        profile=profile,
        license={"spdx": license},
        lineage=lineage,
        consent=consent,
        web_seeds=web_seeds,
    )
    bundle = sign_bundle(built.manifest.payload, signer or publisher.signer)
    await store.publishers.put(publisher.id, publisher.add(built.manifest))
    if built.listing_bytes is not None:
        await store.add_bytes(built.listing_bytes, Profile.FIXED_1M)
    await store.record(
        built.manifest,
        [bundle],
        pin=True,
        complete=True,
        directory_blocks=built.tree.blocks,
    )
    return Published(built.manifest, bundle, built.listing_bytes)


def state(files: list[FileEntry]) -> tuple[Manifest, bytes]:
    """A signed manifest of these entries, true or not."""
    built = build_manifest(
        kind="model",
        publisher=PUBLISHER,
        name="stated",
        version="1",
        created="2026-11-22T00:00:00Z",
        files=files,
        profile=Profile.TENSOR_1M,
        license={"spdx": "Apache-2.0"},
    )
    return built.manifest, sign_bundle(built.manifest.payload, KEY)
