"""A parcel, read from its first byte to its last; what is handed on was checked.

``read_parcel`` is a generator: the statements, then release by release what comes of its files, in
pieces of some MiB. It ends when the parcel does, and raises ``VerificationFailed`` at the first
thing that is not as it must be: a wrong bit, a block too many, an end too early.
The caller must take in all it gives before the end, and believe none of it as a whole before.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, TypeAlias

from p2p.buffers import make_buffer
from p2p.car import car_header
from p2p.cid import CID, Codec, Hash
from p2p.dag import MAX_OUTLINE, Outline, max_outline
from p2p.dagpb import MAX_BLOCK, decode_file, varint
from p2p.directory import TreeFile, build_tree
from p2p.errors import UsageError, VerificationFailed
from p2p.manifest import Manifest, parse_manifest
from p2p.parcel.index import MAX_INDEX, Index, Item, read_index
from p2p.parcel.order import Told, folder_blocks, frame, leaf_frame
from p2p.ranges import RangeSet

Fill: TypeAlias = Callable[[memoryview], int]
"""Reads into a buffer and returns how many bytes that were; none at the end. Like readinto()."""

PIECE: Final = 8 << 20
"""Bytes of leaves that are handed on at once: a trip to a thread costs nothing beside them."""

_DAMAGED: Final = "Copy it again from where it came."


@dataclass(frozen=True, slots=True)
class Stated:
    """What a parcel holds of a release; of a manifest with a listing the files are not known yet.

    ``signatures`` are bundles that nobody has looked into.
    """

    manifest: Manifest
    signatures: tuple[bytes, ...]
    files: bool


@dataclass(frozen=True, slots=True)
class Statements:
    """Everything that was said, by ``publishers`` (id -> name of a file -> bytes) and releases.

    They are what the index says they are; whether publishers have signed them nobody has asked.
    """

    cid: CID
    index: Index
    publishers: Mapping[str, Mapping[str, bytes]]
    releases: tuple[Stated, ...]


@dataclass(frozen=True, slots=True)
class Release:
    """The files of a release are next: its whole manifest, the blocks of its folders."""

    manifest: Manifest
    listing: bytes | None
    folders: Mapping[CID, bytes]


@dataclass(frozen=True, slots=True)
class File:
    """A file is next; of its leaves only ``coming`` (indexes), the others were in earlier files."""

    path: str
    outline: Outline
    coming: RangeSet


@dataclass(frozen=True, slots=True)
class Leaves:
    """Whole leaves of the file, from ``first`` on, verified; ``data`` is good until the next."""

    first: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class FileEnd:
    """The file is complete."""


Opened: TypeAlias = Statements | Release | File | Leaves | FileEnd


def read_parcel(fill: Fill) -> Iterator[Opened]:
    """Read a parcel: ``Statements``; for each release with files ``Release`` and its files.

    A file is ``File``, ``Leaves`` any number of times, ``FileEnd``; the list of files of a large
    release is a file without a path, before its ``Release``.
    """
    return _Reader(_Blocks(fill)).read()


class _Blocks:
    """Takes blocks off a parcel, each one the block that is due."""

    def __init__(self, fill: Fill) -> None:
        self._fill = fill
        self.at = 0

    def take(self, size: int, what: str) -> bytes:
        buffer = bytearray(size)
        self.take_into(memoryview(buffer), what)
        return bytes(buffer)

    def take_into(self, view: memoryview, what: str) -> None:
        while view:
            count = self._fill(view)
            if count <= 0:
                raise self.wrong(f"ends in the middle of {what}")
            self.at += count
            view = view[count:]

    def wrong(self, reason: str) -> VerificationFailed:
        return VerificationFailed(f"The bundle {reason}, at byte {self.at:,}.", next=_DAMAGED)

    def expect(self, written: bytes, what: str) -> None:
        """Take what can only be written in one way."""
        if self.take(len(written), what) != written:
            raise self.wrong(f"has something else where {what} is due")

    def block(self, cid: CID, size: int, what: str) -> bytes:
        """Take a block whose size is known."""
        self.expect(frame(cid, size), what)
        return self._body(cid, size, what)

    def node(self, cid: CID, limit: int, what: str) -> bytes:
        """Take a block of at most ``limit`` bytes that says itself how long it is."""
        name, number, digits = bytes(cid), 0, b""
        while not digits or digits[-1] >= 0x80:
            digits += self.take(1, what)
            number |= (digits[-1] & 0x7F) << 7 * (len(digits) - 1)
            if number > limit + len(name) or len(digits) > _MAX_DIGITS:
                raise self.wrong(f"has a block of over {limit:,} bytes as {what}")
        if number < len(name) or varint(number) != digits:
            raise self.wrong(f"has no block where {what} is due")
        self.expect(name, what)
        return self._body(cid, number - len(name), what)

    def _body(self, cid: CID, size: int, what: str) -> bytes:
        data = self.take(size, what)
        if not cid.matches(data):
            raise self.wrong(f"is damaged in {what}: its bytes are not {cid}")
        return data

    def end(self) -> None:
        """See that nothing is left."""
        if self._fill(memoryview(bytearray(1))):
            raise self.wrong("goes on after its last block")


class _Reader:
    def __init__(self, blocks: _Blocks) -> None:
        self._blocks = blocks
        self._told = Told()
        self._buffer = make_buffer(PIECE)

    def read(self) -> Iterator[Opened]:
        statements = self._statements()
        yield statements
        for release in statements.releases:
            if release.files:
                yield from self._release(release.manifest)
        self._blocks.end()

    # -- what was said

    def _statements(self) -> Statements:
        blocks = self._blocks
        # The header holds the index's CID, which nobody knows before it.
        header = blocks.take(len(car_header(_ANY)), "its header")
        try:
            root = CID.from_bytes(header[-len(bytes(_ANY)) - _AFTER : -_AFTER])
        except UsageError as exc:
            raise blocks.wrong("does not begin like a bundle") from exc
        if header != car_header(root) or root.codec is not Codec.JSON:
            raise blocks.wrong("does not begin like a bundle")
        index = read_index(blocks.node(root, MAX_INDEX, "the index"))
        publishers = {
            one.id: {
                name: self._item(item, f"{name} of the publisher {one.id}")
                for name, item in one.metadata
            }
            for one in index.publishers
        }
        releases = tuple(self._stated(number, index) for number in range(len(index.releases)))
        _check_lineage(index, releases)
        return Statements(root, index, publishers, releases)

    def _stated(self, number: int, index: Index) -> Stated:
        part = index.releases[number]
        payload = self._item(part.manifest, f"the manifest {part.manifest.cid}")
        signatures = tuple(
            self._item(item, f"signature {count} of {part.manifest.cid}")
            for count, item in enumerate(part.signatures, 1)
        )
        return Stated(parse_manifest(payload), signatures, part.files)

    def _item(self, item: Item, what: str) -> bytes:
        return self._blocks.block(item.cid, item.size, what)

    # -- the files of a release

    def _release(self, manifest: Manifest) -> Iterator[Opened]:
        of = f"of {manifest.name} {manifest.version}"
        listing: bytes | None = None
        if manifest.listing is not None:
            outline = self._outline(manifest.listing.cid, manifest.listing.size, f"the list {of}")
            collected = bytearray()
            yield File("", outline, RangeSet([(0, len(outline))]))
            for leaves in self._leaves(outline, RangeSet([(0, len(outline))]), f"the list {of}"):
                collected += leaves.data
                yield leaves
            yield FileEnd()
            listing = bytes(collected)
            manifest = parse_manifest(manifest.payload, listing)
        tree = build_tree(
            (TreeFile(file.path, file.cid, file.dag_size) for file in manifest.files),
            manifest.profile.hash,
        )
        for cid, block in folder_blocks(tree.root, tree.blocks):
            what = f"a folder {of}"
            self._blocks.block(cid, len(block), what)
        yield Release(manifest, listing, tree.blocks)
        for file in manifest.files:
            if self._told.knows(file.cid):
                continue
            what = f"{file.path} {of}"
            outline = self._outline(file.cid, file.size, what)
            coming = self._told.fresh(outline)
            yield File(file.path, outline, coming)
            yield from self._leaves(outline, coming, what)
            self._told.add(outline)
            yield FileEnd()

    def _outline(self, root: CID, size: int, what: str) -> Outline:
        """Take the nodes of a file: each before what hangs on it."""
        if root.codec is Codec.RAW:
            return Outline.single(root, size)
        limit = min(max_outline(size), MAX_OUTLINE)
        car, due = [car_header(root)], [root]
        while due:
            cid = due.pop()
            block = self._blocks.node(cid, MAX_BLOCK, f"the outline of {what}")
            car += [frame(cid, len(block)), block]
            limit -= len(block)
            if limit < 0:  # else it would be held in memory, whatever it says
                raise self._blocks.wrong(f"has too long an outline of {what}")
            node = decode_file(block)
            if node.codec is not Codec.RAW:
                digests = [node.digests[at : at + 32] for at in range(0, len(node.digests), 32)]
                due += [CID(node.codec, node.hash, digest) for digest in reversed(digests)]
        return Outline.decode(root, b"".join(car), size)

    def _leaves(self, outline: Outline, coming: RangeSet, what: str) -> Iterator[Leaves]:
        for first, stop in coming:
            begun, filled = first, 0
            for index in range(first, stop):
                start, end = outline.span(index, index + 1)
                if filled + end - start > PIECE:
                    yield Leaves(begun, self._buffer[:filled])
                    begun, filled = index, 0
                leaf = self._buffer[filled : filled + end - start]
                try:
                    self._leaf(outline, index, leaf, what)
                except VerificationFailed:
                    if filled:  # what came before is good, and need not come again
                        yield Leaves(begun, self._buffer[:filled])
                    raise
                filled += len(leaf)
            yield Leaves(begun, self._buffer[:filled])

    def _leaf(self, outline: Outline, index: int, leaf: memoryview, what: str) -> None:
        named = f"leaf {index} of {what}"
        self._blocks.expect(leaf_frame(outline, index), named)
        self._blocks.take_into(leaf, named)
        if not outline.verify(index, leaf):
            offset, _ = outline.span(index, index + 1)
            raise self._blocks.wrong(f"is damaged in {named} (byte {offset:,} of the file)")


_MAX_DIGITS: Final = 4
"""Bytes of a length: those of MAX_INDEX, the largest block that says itself how long it is."""
_ANY: Final = CID(Codec.JSON, Hash.BLAKE3, bytes(32))
_AFTER: Final = len(b"\x67version\x01")  # of the header, behind the CID


def _check_lineage(index: Index, releases: tuple[Stated, ...]) -> None:
    """The releases are the first one and its ancestors, and what is not there is said."""
    known = {release.manifest.cid for release in releases}
    met, missing = {releases[0].manifest.cid}, set()
    for release in releases:
        if release.manifest.cid not in met:
            raise VerificationFailed(
                f"The bundle holds {release.manifest.cid}, from which nothing in it descends."
            )
        for parent in parents(release.manifest):
            met.add(parent)
            if parent not in known:
                missing.add(parent)
    if missing != set(index.missing):
        raise VerificationFailed("The index of the bundle does not say which ancestors it lacks.")


def parents(manifest: Manifest) -> list[CID]:
    """Return the releases that a release says it was made from, in order, each once."""
    found = [CID.parse(one["manifest"]) for one in manifest.lineage if "manifest" in one]
    return list(dict.fromkeys(found))
