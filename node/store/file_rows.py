"""The index's tables of whole files, of their leaves, and of the nodes of Outlines."""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

import trio

from node.store.facts import Facts
from node.store.index import Index, Transaction
from p2p.cid import CID
from p2p.dag import Outline

FEW = 1000  # rows that are read in a millisecond
Sum = Literal["sha256", "git"]
_SUMS: Final = {"sha256": ("sums", "sha256"), "git": ("git_names", "sha1")}  # table, column
SOME_PLACES: Final = 16  # places of one leaf that are looked at: some may turn out damaged


@dataclass(frozen=True, slots=True)
class FileRow:
    """A whole file: see the table ``files``."""

    cid: CID
    size: int
    charged: int
    shared: bool
    facts: Facts | None


class FileRows:
    """Questions about files, and changes; each is one transaction."""

    def __init__(self, index: Index) -> None:
        self._index = index
        self.trailing = index.trailing

    async def put_files(self, files: Iterable[tuple[FileRow, Outline]]) -> None:
        """Remember whole files and which leaves they have."""
        files = list(files)
        found = await trio.to_thread.run_sync(
            lambda: {row.cid: _leaves(outline) for row, outline in files if len(outline) > 1}
        )

        async def work(transaction: Transaction) -> None:
            await transaction.many(
                "INSERT INTO files (cid, size, charged, shared, mtime_ns, inode)"
                " VALUES (?1, ?2, ?3, ?4, ?5, ?6) ON CONFLICT (cid) DO UPDATE SET"
                " charged = ?3, shared = ?4, mtime_ns = ?5, inode = ?6",
                (_values(row) for row, _ in files),
            )
            for cid, leaves in found.items():
                [[key]] = await transaction.run("SELECT id FROM files WHERE cid = ?", bytes(cid))
                await transaction.many(
                    "INSERT OR IGNORE INTO leaves VALUES (?, ?, ?)",
                    ((prefix, key, leaf) for prefix, leaf in leaves),
                )

        await self._index.write(work)

    async def set_facts(self, cid: CID, facts: Facts | None) -> None:
        """Remember what the file looked like when it was hashed, or that it must be hashed."""

        async def work(transaction: Transaction) -> None:
            await transaction.run(
                "UPDATE files SET mtime_ns = ?, inode = ? WHERE cid = ?",
                facts and facts.mtime_ns,
                facts and facts.inode,
                bytes(cid),
            )

        await self._index.write(work)

    async def forget_files(self, cids: Collection[CID]) -> None:
        """These whole files are gone; releases that name them are no longer complete."""
        keys = [(bytes(cid),) for cid in cids]

        async def work(transaction: Transaction) -> None:
            await transaction.many(
                "UPDATE releases SET complete = 0 WHERE complete AND"
                " (id IN (SELECT release FROM release_files WHERE cid = ?1) OR listing = ?1)",
                keys,
            )
            await transaction.many("DELETE FROM files WHERE cid = ?", keys)
            for table, _ in _SUMS.values():
                await transaction.many(f"DELETE FROM {table} WHERE cid = ?", keys)

        await self._index.write(work)

    async def files(self, cids: Collection[CID] | None = None) -> dict[CID, FileRow]:
        """Return those of ``cids`` that are here, or all."""
        columns = "SELECT cid, size, charged, shared, mtime_ns, inode FROM files"
        if cids is None:
            rows = await self._index.ask(columns)
        elif len(cids) == 1:
            [cid] = cids
            rows = await self._index.ask(columns + " WHERE cid = ?", bytes(cid))
        else:
            keys = json.dumps([bytes(cid).hex() for cid in cids])
            rows = await self._index.ask(
                columns + " JOIN json_each(?) AS wanted ON cid = unhex_(wanted.value)", keys
            )

        def read() -> dict[CID, FileRow]:
            return {row.cid: row for row in map(_file_row, rows)}

        # A million take seconds; of a few the thread would be the dearer part.
        return read() if len(rows) < FEW else await trio.to_thread.run_sync(read)

    async def put_sums(self, kind: Sum, sums: Mapping[CID, bytes]) -> None:
        """Remember sums of whole files."""
        rows = [(bytes(cid), digest) for cid, digest in sums.items()]
        table, column = _SUMS[kind]

        async def work(transaction: Transaction) -> None:
            await transaction.many(
                f"INSERT INTO {table} (cid, {column}) VALUES (?1, ?2)"
                f" ON CONFLICT (cid) DO UPDATE SET {column} = ?2",
                rows,
            )

        if rows:
            await self._index.write(work)

    async def sums(self, kind: Sum, cids: Collection[CID]) -> dict[CID, bytes]:
        """Return what is remembered of the sums of these files."""
        keys = json.dumps([bytes(cid).hex() for cid in cids])
        table, column = _SUMS[kind]
        rows = await self._index.ask(
            f"SELECT cid, {column} FROM json_each(?) AS wanted"
            f" JOIN {table} ON cid = unhex_(wanted.value)",
            keys,
        )
        return {CID.from_bytes(cid): bytes(digest) for cid, digest in rows}

    async def charged(self) -> tuple[int, int, int]:
        """Return the sum of what counts against the quota, of all sizes, and the count of files."""
        [row] = await self._index.ask(
            "SELECT coalesce(sum(charged), 0), coalesce(sum(size), 0), count(*) FROM files"
        )
        return row[0], row[1], row[2]

    async def leaves(self, digests: Collection[bytes]) -> list[tuple[bytes, CID, int]]:
        """Return (first 8 bytes of the digest, file, index of the leaf) for each leaf held."""
        wanted = json.dumps(sorted({_prefix(digest) for digest in digests}))
        rows = await self._index.ask(
            "SELECT prefix, files.cid, leaf FROM json_each(?) AS wanted"
            " JOIN leaves ON prefix = wanted.value JOIN files ON files.id = leaves.file",
            wanted,
        )
        return [
            (prefix.to_bytes(8, "big", signed=True), CID.from_bytes(cid), leaf)
            for prefix, cid, leaf in rows
        ]

    async def some_places(self, digest: bytes) -> list[tuple[CID, int]]:
        """Return a few places (file, index of the leaf) where a leaf may lie.

        A leaf of zeros can lie in a file a million times; one good place is enough.
        """
        rows = await self._index.ask(
            "SELECT files.cid, leaf FROM leaves JOIN files ON files.id = leaves.file"
            " WHERE prefix = ? LIMIT ?",
            _prefix(digest),
            SOME_PLACES,
        )
        return [(CID.from_bytes(cid), leaf) for cid, leaf in rows]

    async def put_outlines(self, outlines: Iterable[tuple[CID, Sequence[CID]]]) -> None:
        """Remember which nodes the Outlines of these files hold."""
        rows = [(bytes(node), bytes(root)) for root, nodes in outlines for node in nodes]

        async def work(transaction: Transaction) -> None:
            await transaction.many("INSERT OR IGNORE INTO nodes VALUES (?, ?)", rows)

        await self._index.write(work)

    async def forget_outlines(self, roots: Collection[CID]) -> None:
        """These Outlines are gone."""
        rows = [(bytes(root),) for root in roots]

        async def work(transaction: Transaction) -> None:
            await transaction.many("DELETE FROM nodes WHERE root = ?", rows)

        await self._index.write(work)

    async def outlines(self, roots: Collection[CID]) -> set[CID]:
        """Return those of ``roots`` whose Outlines are remembered, and so are safe on disk."""
        keys = json.dumps([bytes(root).hex() for root in roots])
        rows = await self._index.ask(
            "SELECT DISTINCT nodes.root FROM json_each(?) AS wanted"
            " JOIN nodes ON nodes.root = unhex_(wanted.value)",
            keys,
        )
        return {CID.from_bytes(root) for (root,) in rows}

    async def all_outlines(self) -> set[CID]:
        """Return every file whose Outline is remembered."""
        rows = await self._index.ask("SELECT DISTINCT root FROM nodes")
        return {CID.from_bytes(root) for (root,) in rows}

    async def node(self, cid: CID) -> CID | bytes | None:
        """Return the block of a folder, or the file whose Outline holds the node ``cid``."""
        rows = await self._index.ask(
            "SELECT block, NULL FROM folders WHERE cid = ?1"
            " UNION ALL SELECT NULL, root FROM nodes WHERE cid = ?1 LIMIT 1",
            bytes(cid),
        )
        if not rows:
            return None
        block, root = rows[0]
        return CID.from_bytes(root) if block is None else bytes(block)


def _prefix(digest: bytes) -> int:
    """Return the first 8 bytes of a digest as an integer that SQLite can hold."""
    return int.from_bytes(digest[:8], "big", signed=True)


def _leaves(outline: Outline) -> list[tuple[int, int]]:
    """Return prefix and index of every leaf, in the order of the table's key: SQLite likes that."""
    return sorted((_prefix(outline.digest(index)), index) for index in range(len(outline)))


def _file_row(row: tuple[Any, ...]) -> FileRow:
    cid, size, charged, shared, mtime_ns, inode = row
    facts = None if mtime_ns is None else Facts(size, mtime_ns, inode)
    return FileRow(CID.from_bytes(cid), size, charged, bool(shared), facts)


def _values(row: FileRow) -> tuple[object, ...]:
    facts = row.facts
    return (
        *(bytes(row.cid), row.size, row.charged, row.shared),
        *((facts.mtime_ns, facts.inode) if facts is not None else (None, None)),
    )
