"""The gate: what comes in, what is given to others, what is announced, by the owner's policy.

    at a fetch     before anything large moves, and again when the bytes are here
    at serving     whatever another node asks for, by whichever way; a no is 410 with the reason
    at announcing  nobody is told of what he would not be given

A release that is refused as a whole takes its files along, unless another release that is let in
names them too; a file that is refused alone (a deny list names it, or its format is not let in)
leaves the others. The statement of a release is given even then, so that whoever asks can see what
was said and signed; only a deny list keeps that back too.

The owner may edit the policy while the node runs. What the files look like is compared every
``CHECK_EVERY`` seconds, at the next question; a policy that cannot be read leaves the last one that
could in force for serving, and is an error for whoever fetches.
"""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import trio

from node.ancestry import Known
from node.keyring import Keyring
from node.rulebook import Rulebook, Stamp
from node.store import Store, durable
from node.witness import Witness
from p2p.cid import CID, Codec
from p2p.errors import ConfigError, Refused, Untrusted
from p2p.manifest import FileEntry, Manifest
from p2p.policy import (
    Evidence,
    Facts,
    File,
    Policy,
    Verdict,
    denied,
    judge,
    judge_release,
    refused_files,
)
from p2p.policy.model import MODEL_FORMATS

log = logging.getLogger(__name__)

CHECK_EVERY: Final = 0.5
"""Seconds between two looks at the policy's files while there are questions."""
WATCH_EVERY: Final = 2.0
"""Seconds between two looks while there are none: announcements follow the policy too."""
JUDGED_FOR: Final = 30.0
"""Seconds for which a verdict on a held release stands: endorsements age, and consent ends."""
ANSWERED_FOR: Final = 5.0
"""Seconds for which an answer about a file stands: a release that names it may come, or go."""
MAX_ANSWERS: Final = 1 << 16
"""Answers that are kept: some 200 bytes each."""
MAX_JUDGED: Final = 4096
"""Held releases that are remembered as judged: some KiB each."""
MAX_SEEN: Final = 100_000
"""Publishers that are remembered as seen."""
MAX_SEEN_FILE: Final = 32 << 20
"""Bytes of the file that remembers them."""


@dataclass(frozen=True, slots=True)
class Asked:
    """How somebody came to want a release, as far as a policy asks.

    ``yes``: a person said yes to its publisher. ``ask``: there is a person who can be asked.
    ``stale``: a name led here through metadata that has expired.
    """

    yes: bool = False
    ask: bool = False
    stale: bool = False


@dataclass(frozen=True, slots=True)
class _Judged:
    """What was made of a held release: why it is not given, if it is not, and on what grounds."""

    until: float
    verdict: Verdict | None
    evidence: Evidence


class Gate:
    """Judges for one node; ``state`` is the folder in which it remembers publishers and files."""

    def __init__(self, rulebook: Rulebook, store: Store, keyring: Keyring, state: Path) -> None:
        self.rulebook = rulebook
        self._store = store
        self._witness = Witness(store, keyring, state / "findings.json")
        self._seen_file = state / "seen.json"
        self._seen: dict[str, str] | None = None
        self._policy: Policy | None = None
        self._stamp: Stamp = ()
        self._checked = -CHECK_EVERY
        self._told = ""
        self._loading = trio.Lock()
        self._judged: dict[CID, _Judged] = {}
        self._answers: dict[tuple[CID, str], tuple[float, Verdict | None]] = {}
        self._withheld: dict[CID, frozenset[CID]] = {}
        self._age = 0  # how often everything was to be judged anew
        self._changed = trio.Event()
        self._own: tuple[float, frozenset[str]] = (-JUDGED_FOR, frozenset())
        self.admissions: Counter[tuple[bool, str]] = Counter()
        """How often what was to come in was let in, or not, by the rule that decided."""
        self.withheld_by: Counter[str] = Counter()
        """How often others were not given what they asked for, by the rule."""

    # --- the policy ------------------------------------------------------------------------------

    def petnames(self) -> Mapping[str, str]:
        """Return what the owner calls publishers, and their ids; reads a small file if it changed.

        A policy that cannot be read names nobody: who needs it hears of that elsewhere.
        """
        try:
            return self.rulebook.own().publishers
        except ConfigError:
            return self._policy.publishers if self._policy is not None else {}

    async def policy(self) -> Policy:
        """Return the policy as the files say it now; ``ConfigError`` if they cannot be read."""
        await self._renew(strict=True)
        return self._in_force()

    async def _renew(self, *, strict: bool) -> None:
        """Read the policy's files if they look different; without ``strict`` errors are logged."""
        now = trio.current_time()
        if self._policy is not None and now < self._checked + CHECK_EVERY and not strict:
            return
        async with self._loading:
            self._checked = trio.current_time()
            stamp = self.rulebook.stamp()
            if self._policy is not None and stamp == self._stamp and not (strict and self._told):
                return
            try:
                self._policy = await trio.to_thread.run_sync(self.rulebook.load)
            except ConfigError as exc:
                if strict or self._policy is None:
                    raise
                if exc.message != self._told:
                    log.error("the policy as it was stays in force: %s", exc.message)
                self._told, self._stamp = exc.message, stamp
                return
            self._told, self._stamp = "", self.rulebook.stamp()
        self.changed()

    def changed(self) -> None:
        """Judge everything anew: the policy, or what publishers or others say, has changed."""
        self._age += 1
        self._judged.clear()
        self._own = -JUDGED_FOR, frozenset()
        self._answers.clear()
        self._withheld.clear()
        self._changed.set()
        self._changed = trio.Event()

    def next_change(self) -> trio.Event:
        """Return what is set when everything is to be judged anew; take it before you judge."""
        return self._changed

    async def wait_changed(self) -> None:
        """Wait until everything is to be judged anew."""
        await self._changed.wait()

    async def watch(self) -> None:
        """Notice edits of the policy although nobody asks anything; never returns.

        A file can only be looked at: waiting for its change takes a library for each system.
        """
        while True:
            await self._renew(strict=False)
            await trio.sleep(WATCH_EVERY)

    # --- taking ----------------------------------------------------------------------------------

    async def judge(
        self,
        manifest: Manifest,
        bundles: Sequence[bytes],
        asked: Asked = Asked(),
        *,
        chosen: Sequence[FileEntry] | None = None,
        known: Known | None = None,
    ) -> Verdict:
        """Say whether a release, or the ``chosen`` files of it, may be taken.

        What its files turned out to be counts, as far as it is known; ``known``: its ancestors'
        statements, where they came with it. ``ConfigError``.
        """
        policy = await self.policy()
        entries = manifest.files if chosen is None else chosen
        evidence = await self._evidence(policy, manifest, bundles, asked, entries, known)
        return await trio.to_thread.run_sync(judge, policy, evidence)

    async def admit(
        self,
        manifest: Manifest,
        bundles: Sequence[bytes],
        asked: Asked = Asked(),
        *,
        chosen: Sequence[FileEntry] | None = None,
        known: Known | None = None,
    ) -> Verdict:
        """Do ``judge``; raise ``Refused`` for a no, ``Untrusted`` where a person may say yes."""
        verdict = await self.judge(manifest, bundles, asked, chosen=chosen, known=known)
        self.admissions[verdict.admitted, verdict.rule] += 1
        if not verdict.admitted:
            kind = Untrusted if verdict.asks else Refused
            raise kind(
                f"Refused by {verdict.rule}: {verdict.reason}",
                next=verdict.next,
                taken_back=verdict.rule.startswith("status."),
            )
        return verdict

    async def opinion(self, cid: CID) -> Verdict | None:
        """Say what the policy makes of a held release and of its files that are here, today.

        None for a release that is not held. ``ConfigError``.
        """
        policy, held = await self.policy(), await self._witness.held(cid)
        if held is None:
            return None
        facts, payload, bundles = held
        named = await self._store.release_files(cid)
        here = await self._store.has_many({one.cid for one in named})
        evidence = await self._witness.evidence(
            facts,
            payload,
            bundles,
            policy,
            files=[File(one.path, one.cid) for one in named if one.cid in here],
            paths=frozenset(one.path for one in named),
            own=facts.publisher in await self._own_ids(),
            seen=True,
        )
        return await trio.to_thread.run_sync(judge, policy, evidence)

    async def about(self, cid: CID) -> tuple[Facts, bool] | None:
        """Return what a held release says, and whether this machine's own publisher says it.

        One that has just gone may still be known.
        """
        await self._renew(strict=False)
        judged = await self._judge_held(cid)
        return None if judged is None else (judged.evidence.facts, judged.evidence.own)

    async def let_in(self, manifest: Manifest, bundles: Sequence[bytes]) -> Manifest:
        """Return a manifest with only those of its files that the policy lets in.

        For the folder in which its files are shown: others may lie in the store all the same.
        """
        policy = await self.policy()
        evidence = await self._evidence(policy, manifest, bundles, Asked(), manifest.files)
        refused = await trio.to_thread.run_sync(refused_files, policy, evidence)
        if not refused:
            return manifest
        kept = tuple(entry for entry in manifest.files if entry.path not in refused)
        return replace(manifest, files=kept)

    async def look_into(self, chosen: Sequence[FileEntry], *, note: bool = True) -> bool:
        """Look at the bytes of files that have come; whether anything was found in one of them.

        ``note``: as in ``Witness.look_into``.
        """
        files = [File(entry.path, entry.cid) for entry in chosen]
        await self._witness.look_into(files, note=note)
        found = await self._witness.findings()
        return any(file.cid in found for file in files)

    async def remember(self, publisher: str) -> bool:
        """A release of this publisher was let in; whether it is the first that is remembered."""
        seen = await self._load_seen()
        if publisher in seen or publisher in self.petnames().values():
            return False
        if publisher in await self._own_ids():
            return False
        seen[publisher] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        while len(seen) > MAX_SEEN:
            del seen[next(iter(seen))]
        data = json.dumps(seen, indent=1).encode()

        def write() -> None:
            self._seen_file.parent.mkdir(parents=True, exist_ok=True)
            durable.replace_file(self._seen_file, data, self._seen_file.parent)

        await durable.on_disk("remember a publisher", write)
        return True

    async def seen(self) -> Mapping[str, str]:
        """Return the publishers of whom something was let in, and when the first time."""
        return await self._load_seen()

    async def _load_seen(self) -> dict[str, str]:
        if self._seen is None:
            self._seen = await trio.to_thread.run_sync(_read_seen, self._seen_file)
        return self._seen

    async def _own_ids(self) -> frozenset[str]:
        until, own = self._own
        if trio.current_time() > until:
            own = await self._witness.own()
            self._own = trio.current_time() + ANSWERED_FOR, own
        return own

    async def _evidence(
        self,
        policy: Policy,
        manifest: Manifest,
        bundles: Sequence[bytes],
        asked: Asked,
        entries: Sequence[FileEntry],
        known: Known | None = None,
    ) -> Evidence:
        return await self._witness.evidence(
            self._witness.facts(manifest),
            manifest.payload,
            bundles,
            policy,
            known,
            files=[File(entry.path, entry.cid) for entry in entries],
            paths=frozenset(entry.path for entry in manifest.files),
            stale=asked.stale,
            own=manifest.publisher in await self._own_ids(),
            seen=asked.yes or not asked.ask or manifest.publisher in await self._load_seen(),
        )

    # --- giving ----------------------------------------------------------------------------------

    async def check(self, cid: CID, path: str = "") -> None:
        """Raise ``Refused``, with the reason, for content that is not given to others."""
        verdict = await self.refuses(cid, path)
        if verdict is not None:
            self.withheld_by[verdict.rule] += 1
            raise Refused(verdict.reason, next=verdict.next)

    async def check_statement(self, cid: CID) -> None:
        """Raise ``Refused`` for a release of which not even the statement is given to others."""
        verdict = await self.refuses(cid)
        if verdict is not None and "deny[" in verdict.rule:
            raise Refused(verdict.reason, next=verdict.next)

    async def refuses(self, cid: CID, path: str = "") -> Verdict | None:
        """Return why what a CID names, or ``path`` below it, is not given; None if it is.

        A release, a file, a folder, or a single block of one; what is not held is not refused.
        """
        await self._renew(strict=False)
        key, now = (cid, path), trio.current_time()
        known = self._answers.get(key)
        if known is not None and now < known[0]:
            return known[1]
        age, verdict = self._age, await self._answer(cid, path)
        if age == self._age:  # else it may rest on what no longer holds
            if len(self._answers) >= MAX_ANSWERS:
                self._answers.clear()
            self._answers[key] = trio.current_time() + ANSWERED_FOR, verdict
        return verdict

    async def withheld(self, manifest: CID) -> frozenset[CID]:
        """Return the files of a held release that are not given to others though it is."""
        await self._renew(strict=False)
        known = self._withheld.get(manifest)
        if known is not None:
            return known
        age, judged = self._age, await self._judge_held(manifest)
        if judged is None:
            return frozenset()
        named = await self._store.release_files(manifest)
        files = [File(one.path, one.cid) for one in named]
        paths = frozenset(one.path for one in files)
        evidence = replace(judged.evidence, files=files, paths=paths)
        policy = self._in_force()
        refused = await trio.to_thread.run_sync(refused_files, policy, evidence)
        found = frozenset(file.cid for file in files if file.path in refused)
        if age == self._age and files:  # else it has just gone, or is just being recorded
            self._withheld[manifest] = found
        return found

    async def _answer(self, cid: CID, path: str) -> Verdict | None:
        verdict = denied(self._in_force(), cid, path)
        if verdict is not None or path:
            return verdict
        if cid.codec is Codec.JSON:
            judged = await self._judge_held(cid)
            return None if judged is None else judged.verdict
        named = await self._store.named(cid)
        if named:
            return self._first([await self._named(cid, *one) for one in named])
        wholes = [file for file in await self._store.files_with(cid) if file != cid]
        if wholes:
            return self._first([await self.refuses(file) for file in wholes])
        finding = (await self._witness.findings()).get(cid)
        if finding is not None and finding.format not in MODEL_FORMATS:
            return Verdict(False, "default.formats", f"{cid} is not given on: {finding.why}.")
        return None

    @staticmethod
    def _first(verdicts: Sequence[Verdict | None]) -> Verdict | None:
        """What is let in by one way is let in."""
        return None if None in verdicts else verdicts[0]

    async def _named(self, file: CID, manifest: CID, path: str) -> Verdict | None:
        """Judge a file as that which a release has at ``path``; "" for its folder or listing."""
        judged = await self._judge_held(manifest)
        if judged is None:
            return None
        if judged.verdict is not None or not path:
            return judged.verdict
        finding = (await self._witness.findings()).get(file)
        beside = await self._store.release_files(manifest) if finding and finding.names else []
        paths = frozenset(one.path for one in beside)
        evidence = replace(judged.evidence, files=[File(path, file)], paths=paths)
        return refused_files(self._in_force(), evidence).get(path)

    async def _judge_held(self, manifest: CID) -> _Judged | None:
        """Judge a held release as a whole; None if it is not held.

        It is done once for all of its files: signatures are checked anew for it.
        """
        known = self._judged.get(manifest)
        if known is not None and trio.current_time() < known.until:
            return known
        age, policy, held = self._age, self._in_force(), await self._witness.held(manifest)
        if held is None:
            return None
        facts, payload, bundles = held
        evidence = await self._witness.evidence(
            facts,
            payload,
            bundles,
            policy,
            own=facts.publisher in await self._own_ids(),
            seen=True,  # it was let in when it came
            serving=True,
        )
        found = judge_release(policy, evidence)
        verdict = None if found.admitted else found
        # The chain, which may be long, has done its work: no single file is judged by it.
        until = trio.current_time() + JUDGED_FOR
        judged = _Judged(until, verdict, replace(evidence, chain=()))
        if age == self._age:
            if len(self._judged) >= MAX_JUDGED:
                self._judged.clear()
            self._judged[manifest] = judged
        return judged

    def _in_force(self) -> Policy:
        assert self._policy is not None  # every way to here has read it
        return self._policy


def _read_seen(path: Path) -> dict[str, str]:
    try:
        with path.open("rb") as stream:
            value = json.loads(stream.read(MAX_SEEN_FILE))
        return {str(one): str(when) for one, when in value.items()}
    except (OSError, ValueError, AttributeError, RecursionError):
        return {}  # whoever is new is asked about again
