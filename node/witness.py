"""Gathering what a policy is to be asked about: the evidence for one release, out of the store.

Signatures were checked when they came, and are checked again here, since a disk is no proof; what
follows from bytes alone (who signed, what was said, what a file is) is remembered by their hash.
Whether anybody is to be believed is not this module's business.

Nothing here touches the network: what the store doesn't know is not evidence.
"""

import json
import os
from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import trio

from node.ancestry import Known, ancestry
from node.keyring import Keyring
from node.store import Store, durable
from p2p.attest import Attestation, read_attestation
from p2p.cid import CID
from p2p.envelope import open_bundle
from p2p.errors import StoreError, UsageError, VerificationFailed
from p2p.keys import PublicKey
from p2p.manifest import Manifest, parse_manifest
from p2p.naming import Status, authenticate
from p2p.policy import Evidence, Facts, File, Finding, Policy
from p2p.policy.evidence import Fate

MAX_KEPT: Final = 1024
"""Releases of which the facts are remembered: a few KiB each."""
MAX_LOOKED: Final = 1 << 16
"""Files that are remembered as looked into: some 200 bytes each."""
MAX_FINDINGS: Final = 100_000
"""Files of which it is remembered that they are not what they seem."""
MAX_FINDINGS_FILE: Final = 64 << 20
"""Bytes of the file that remembers them."""
FILES_AT_ONCE: Final = 256
"""Files that one look in a thread is about, so that a cancelled fetch waits for no more."""


@dataclass(frozen=True, slots=True)
class Testimony:
    """What the bundles of a release prove: whose keys signed it, and who says what of it."""

    signers: frozenset[PublicKey]
    attestations: tuple[Attestation, ...]


def hear(manifest: CID, payload: bytes, bundles: Iterable[bytes]) -> Testimony:
    """Check the bundles of a release; those that prove nothing about it are left out."""
    signers: set[PublicKey] = set()
    attestations: list[Attestation] = []
    for bundle in bundles:
        with suppress(VerificationFailed):
            signed = open_bundle(bundle)
            if signed.payload == payload:
                signers.add(signed.key)
                continue
            said = read_attestation(bundle)
            if said.manifest == manifest:
                attestations.append(said)
    return Testimony(frozenset(signers), tuple(attestations))


class Witness:
    """Knows the store and this machine's own publishers; ``findings`` is where it keeps notes."""

    def __init__(self, store: Store, keyring: Keyring, findings: Path) -> None:
        self._store = store
        self._keyring = keyring
        self._file = findings
        self._facts: OrderedDict[CID, Facts] = OrderedDict()
        self._heard: OrderedDict[CID, tuple[int, Testimony]] = OrderedDict()
        self._findings: dict[CID, Finding] | None = None
        self._looked: set[File] = set()  # and found to be nothing that must be known
        self._unwritten = False  # whether there are findings that the file has not
        self._noting = trio.Lock()

    # --- releases --------------------------------------------------------------------------------

    async def evidence(
        self,
        facts: Facts,
        payload: bytes,
        bundles: Sequence[bytes],
        policy: Policy,
        known: Known | None = None,
        **more: Any,
    ) -> Evidence:
        """Gather everything about a release; ``more`` are fields that only the caller knows.

        ``known``: ancestors whose statements came with it and are not in the store yet.
        """
        testimony = await self._testimony(facts.cid, payload, bundles)
        attestations = testimony.attestations
        asked = {party.publisher for party in policy.trusted()} | {facts.publisher}
        asked |= {one.publisher for one in attestations}
        for each in (policy, *(community.policy for community in policy.communities)):
            for rule in each.rules:
                for need in (rule.signatures, rule.endorsements, rule.evaluations):
                    asked |= {party.publisher for party in need.by} if need is not None else set()
        chain: tuple[Evidence, ...] = ()
        if _asks_for_lineage(policy):
            chain = await self._chain(facts, known)
        return Evidence(
            facts=facts,
            now=datetime.now(UTC),
            signers=testimony.signers,
            # Whether the publisher's own release is by keys that counted was asked when it came.
            keys={
                one: await self._keys(one, ever=one == facts.publisher)
                for one in asked
                if one is not None
            },
            attestations=attestations,
            status=await self.status(facts.publisher, facts.cid),
            chain=chain,
            contents=await self.findings(),
            **more,
        )

    async def held(self, cid: CID) -> tuple[Facts, bytes, tuple[bytes, ...]] | None:
        """Return what a held release says, its payload and its bundles; None if it is not here."""
        statement = await self._store.statement(cid)
        if statement is None:
            return None
        facts = self._facts.get(cid)
        if facts is None:
            manifest = await trio.to_thread.run_sync(_parse, statement.payload)
            if manifest is None:
                return None
            facts = self.facts(manifest)
        return facts, statement.payload, statement.bundles

    def facts(self, manifest: Manifest) -> Facts:
        """Return what a manifest that was checked says, and remember it."""
        facts = self._facts[manifest.cid] = Facts.of(manifest)
        while len(self._facts) > MAX_KEPT:
            self._facts.popitem(last=False)
        return facts

    async def _testimony(self, cid: CID, payload: bytes, bundles: Sequence[bytes]) -> Testimony:
        mark = hash(tuple(bundles))
        known = self._heard.get(cid)
        if known is not None and known[0] == mark:
            return known[1]
        found = await trio.to_thread.run_sync(hear, cid, payload, bundles)
        self._heard[cid] = mark, found
        while len(self._heard) > MAX_KEPT:
            self._heard.popitem(last=False)
        return found

    async def _chain(self, facts: Facts, known: Known | None) -> tuple[Evidence, ...]:
        """Return the parents of a release that are known here, with their own ancestors."""
        made: dict[CID, Evidence] = {}
        now = datetime.now(UTC)
        parents = dict.fromkeys(parent for parent in facts.parents if parent is not None)
        for parent in parents:
            if parent in made:
                continue
            # The farthest first, so that each finds its own parents made.
            for one in reversed(list(await ancestry(self._store, parent, known))):
                if one.manifest is not None and one.cid not in made:
                    above = Facts.of(one.manifest)
                    status = await self.status(above.publisher, one.cid)
                    chain = tuple(made[cid] for cid in _known(above, made))
                    made[one.cid] = Evidence(above, now, status=status, chain=chain)
        return tuple(made[cid] for cid in _known(facts, made))

    async def status(self, publisher: str, cid: CID) -> Fate | None:
        """Return what the publisher has said of a release since, as far as it is known here.

        A release that is held, and that its publisher's keys no longer vouch for since they were
        replaced, is as good as revoked.
        """
        held = await self._store.publishers.held(publisher)
        if held is None:
            return None
        statement = await self._store.statement(cid)
        if cid in held.taken or statement is None:
            return held.taken.get(cid)
        check = partial(authenticate, statement.payload, statement.bundles, held.metadata)
        try:
            await trio.to_thread.run_sync(check)
        except VerificationFailed as exc:
            return Status("revoked", exc.message, "")
        return None

    async def _keys(self, publisher: str, *, ever: bool) -> frozenset[PublicKey]:
        """Return the keys that sign for a publisher, now or ``ever``; none of one unknown here."""
        held = await self._store.publishers.held(publisher)
        if held is None:
            return frozenset()
        return held.keys if ever else held.keys_now

    async def own(self) -> frozenset[str]:
        """Return the ids of this machine's own publishers."""

        def read() -> frozenset[str]:
            found = set()
            for name in self._keyring.names():
                with suppress(StoreError):
                    repository = self._keyring.repository(name)
                    if repository.founded:
                        found.add(repository.id)
            return frozenset(found)

        return await trio.to_thread.run_sync(read)

    # --- files -----------------------------------------------------------------------------------

    async def findings(self) -> Mapping[CID, Finding]:
        """Return everything that files turned out to be."""
        return await self._all_findings()

    async def _all_findings(self) -> dict[CID, Finding]:
        if self._findings is None:
            self._findings = await trio.to_thread.run_sync(_read_findings, self._file)
        return self._findings

    async def look_into(self, files: Collection[File], *, note: bool = True) -> None:
        """Look at the bytes of those of these files that are here whole, and note what they are.

        Without ``note`` that is left to the next time: for who looks again and again.
        """
        findings = await self._all_findings()
        waiting = [file for file in files if file.cid not in findings and file not in self._looked]
        for start in range(0, len(waiting), FILES_AT_ONCE):
            some = waiting[start : start + FILES_AT_ONCE]
            whole = await self._store.whole({file.cid for file in some})
            held = [(file, *whole[file.cid]) for file in some if file.cid in whole]
            looked = await durable.on_disk("look into files", lambda: _look(held))  # noqa: B023
            found = {file.cid: finding for file, finding in looked.items() if finding is not None}
            if len(self._looked) >= MAX_LOOKED:
                self._looked.clear()
            self._looked.update(file for file in looked if file.cid not in found)
            self._unwritten |= bool(found)
            findings |= found
            while len(findings) > MAX_FINDINGS:
                del findings[next(iter(findings))]
        if note:
            await self._note(findings)

    async def _note(self, findings: Mapping[CID, Finding]) -> None:
        async with self._noting:  # the newest is written last
            if not self._unwritten:
                return
            self._unwritten, noted = False, dict(findings)
            try:
                await durable.on_disk("note findings", lambda: _write_findings(self._file, noted))
            except BaseException:
                self._unwritten = True
                raise


@dataclass(frozen=True, slots=True)
class OnDisk:
    """A file on disk as a policy's ``Content``."""

    fd: int
    size: int

    def read(self, start: int, size: int) -> bytes:
        if start >= self.size:  # what looks like a pickle may say that it goes on anywhere
            return b""
        return os.pread(self.fd, max(0, min(size, self.size - start)), start)


def _look(held: Iterable[tuple[File, Path, int]]) -> dict[File, Finding | None]:
    """Return what each of these files is; one that is gone meanwhile is left out."""
    from p2p.policy.contents import look_into  # a dozen modules for archives, when files came

    looked: dict[File, Finding | None] = {}
    for file, path, size in held:
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            looked[file] = look_into(file.path, OnDisk(fd, size))
        finally:
            os.close(fd)
    return looked


def _read_findings(path: Path) -> dict[CID, Finding]:
    try:
        with path.open("rb") as stream:
            value = json.loads(stream.read(MAX_FINDINGS_FILE))
        return {
            CID.parse(text): Finding(format, why, tuple(names))
            for text, (format, why, names) in value.items()
        }
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError, UsageError, RecursionError):
        return {}  # files are looked into again when they are next fetched


def _write_findings(path: Path, findings: Mapping[CID, Finding]) -> None:
    value = {str(cid): [one.format, one.why, one.names] for cid, one in findings.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.replace_file(path, json.dumps(value).encode(), path.parent)


def _parse(payload: bytes) -> Manifest | None:
    try:
        return parse_manifest(payload)
    except VerificationFailed:  # recorded by a version that asked less
        return None


def _known(facts: Facts, made: Mapping[CID, Evidence]) -> list[CID]:
    """Return the parents of a release of which there is evidence, each once."""
    parents = dict.fromkeys(parent for parent in facts.parents if parent is not None)
    return [parent for parent in parents if parent in made]


def _asks_for_lineage(policy: Policy) -> bool:
    """Whether any rule asks for ancestors: reading hundreds of statements is left out else."""
    policies = (policy, *(community.policy for community in policy.communities))
    return any(
        (rule.lineage.depth, rule.lineage.unknown, rule.lineage.revoked) != (None, None, None)
        for each in policies
        for rule in each.rules
    )
