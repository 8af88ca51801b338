"""The policy on this disk: ``policy.toml``, its deny lists, and the policies of communities.

    CONFIG/policy.toml            next to config.toml; without it the defaults hold
    CONFIG/...                    the deny lists that it names, from its folder on
    DATA/communities/<hash>/      what was fetched for each subscription: its policy.toml, its lists

The owner may edit the files at any time, with an editor or by ``allod trust``: whoever asks gets
what they say now. What they look like is compared before they are read again.
Edits made here keep the owner's comments, and are made wholly or not at all.

All of it blocks for some disk accesses; a deny list of many megabytes takes seconds to read.
"""

import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from node.store import durable
from p2p.errors import ConfigError, NotFound
from p2p.policy import (
    Community,
    DenyList,
    Policy,
    check_petname,
    check_publisher,
    read_deny_list,
    read_policy,
    write_entry,
)
from p2p.policy.deny import MAX_DENY_LIST
from p2p.policy.reader import MAX_POLICY

POLICY: Final = "policy.toml"
OWN_LIST: Final = "denied.deny"
"""The deny list that ``allod trust deny`` writes."""

Stamp = tuple[object, ...]
"""What a file looks like from outside: another one, and it is read again."""


class Rulebook:
    """The policy in ``folder``, and the communities' under ``communities``."""

    def __init__(self, folder: Path, communities: Path) -> None:
        self.file = folder / POLICY
        self._folder = folder
        self._communities = communities
        self._reading = threading.Lock()
        self._kept: dict[Path, tuple[Stamp, Any]] = {}

    # --- reading ---------------------------------------------------------------------------------

    def stamp(self) -> Stamp:
        """Say what all files look like now: microseconds a file."""
        return tuple(_stamp(path) for path in [self.file, *self._named()])

    def _named(self) -> Iterator[Path]:
        """Yield the files that the policy named when it was last read."""
        known = self._kept.get(self.file)
        if known is None:
            return
        policy: Policy = known[1]
        yield from (self._folder / name for name in policy.deny)
        yield from (self.community(one.ref) / POLICY for one in policy.subscriptions)

    def own(self) -> Policy:
        """Return what ``policy.toml`` alone says; ``ConfigError`` names what is wrong in it."""
        with self._reading:
            return self._own()

    def load(self) -> Policy:
        """Return the whole policy, with its deny lists and communities; ``ConfigError``."""
        with self._reading:
            policy = self._own()
            lists = [self._list(self._folder / name, name) for name in policy.deny]
            communities = [
                Community(f"subscribe[{number}]", one.endorsers, self._fetched(one.ref))
                for number, one in enumerate(policy.subscriptions)
            ]
            return replace(policy, lists=tuple(lists), communities=tuple(communities))

    def _own(self) -> Policy:
        policy: Policy = self._read(self.file, lambda text: read_policy(text), MAX_POLICY, "")
        return policy

    def _list(self, path: Path, name: str) -> DenyList:
        if not path.exists():
            raise ConfigError(
                f"The policy names the deny list {name}, but there is no file {path}.",
                next=f"Put it there, or take it out of deny in {self.file}.",
            )
        found: DenyList = self._read(
            path, lambda text: read_deny_list(text, name), MAX_DENY_LIST, None
        )
        return found

    def _fetched(self, ref: str) -> Policy:
        """Return the policy of a community as it was last fetched: nothing, if it never was."""
        folder = self.community(ref)
        _restore(folder)
        policy: Policy = self._read(
            folder / POLICY, lambda text: read_policy(text, community=True), MAX_POLICY, ""
        )
        lists = [self._list(folder / name, name) for name in policy.deny]
        return replace(policy, lists=tuple(lists))

    def community(self, ref: str) -> Path:
        """Return the folder of a subscription."""
        return self._communities / hashlib.sha256(ref.encode()).hexdigest()[:32]

    def _read(
        self, path: Path, parse: Callable[[str], Any], limit: int, missing: str | None
    ) -> Any:
        """Return what a file says, from memory as long as it looks the same."""
        stamp = _stamp(path)
        known = self._kept.get(path)
        if known is not None and known[0] == stamp:
            return known[1]
        try:
            with path.open("rb") as stream:
                data = stream.read(limit + 1)
            text = data.decode()
        except FileNotFoundError:
            if missing is None:
                raise
            text = missing
        except (OSError, UnicodeDecodeError) as exc:
            raise ConfigError(f"{path} cannot be read as text: {exc}.") from exc
        try:
            found = parse(text)
        except ConfigError as exc:
            raise ConfigError(f"{exc.message} ({path})", next=exc.next) from exc
        self._kept[path] = stamp, found
        return found

    # --- writing ---------------------------------------------------------------------------------

    def keep_community(self, new: Path, folder: Path) -> None:
        """Put what was fetched of a community in the place of what was there.

        Whenever the power goes one of the two is found.
        """
        for path in (*filter(Path.is_dir, new.rglob("*")), new):
            durable.sync_folder(path)
        with self._reading:
            _restore(folder)
            shutil.rmtree(_aside(folder), ignore_errors=True)
            with suppress(FileNotFoundError):
                durable.rename(folder, _aside(folder))
            durable.rename(new, folder)
            durable.sync_folder(folder.parent)
        shutil.rmtree(_aside(folder), ignore_errors=True)

    def trust(self, petname: str, publisher: str) -> bool:
        """Give a publisher a petname; False if it has that one already. ``ConfigError``."""
        check_petname(petname)
        check_publisher(publisher)
        known = self.own().publishers
        if known.get(petname) == publisher:
            return False
        if petname in known:
            raise ConfigError(
                f"{petname} is the name of {known[petname]} already.",
                next=f"`allod trust rm {petname}` frees it, or choose another name.",
            )

        def change(document: Any) -> None:
            _table(document, "publishers")[petname] = publisher

        self._edit(change)
        return True

    def distrust(self, name: str) -> tuple[str, str]:
        """Take a publisher's petname away, named by it or by the id; ``NotFound``."""
        for petname, publisher in self.own().publishers.items():
            if name in (petname, publisher):

                def change(document: Any, petname: str = petname) -> None:
                    del document["publishers"][petname]

                self._edit(change)
                return petname, publisher
        raise NotFound(
            f"The policy has no publisher {name!r}.", next="`allod trust list` shows them."
        )

    def subscribe(self, ref: str) -> bool:
        """Add a subscription; False if it is there already."""
        if any(one.ref == ref for one in self.own().subscriptions):
            return False

        def change(document: Any) -> None:
            import tomlkit

            tables = document.get("subscribe")
            if tables is None:
                tables = document["subscribe"] = tomlkit.aot()
            table = tomlkit.table()
            table["ref"] = ref
            tables.append(table)

        self._edit(change)
        return True

    def unsubscribe(self, ref: str) -> bool:
        """Take a subscription away; False where there is none of that reference."""
        numbers = [number for number, one in enumerate(self.own().subscriptions) if one.ref == ref]
        if not numbers:
            return False

        def change(document: Any) -> None:
            for number in reversed(numbers):
                del document["subscribe"][number]

        self._edit(change)
        return True

    def deny(self, what: str, reason: str) -> None:
        """Put a line on this machine's own deny list, and name the list in the policy."""
        path = self._folder / OWN_LIST

        def append() -> None:
            before = path.read_bytes() if path.exists() else b""
            if before and not before.endswith(b"\n"):
                before += b"\n"
            self._folder.mkdir(parents=True, exist_ok=True)
            durable.replace_file(path, before + write_entry(what, reason).encode(), self._folder)

        with durable.disk_errors("write the deny list"):
            append()
        if OWN_LIST in self.own().deny:
            return

        def change(document: Any) -> None:
            names = [*self.own().deny, OWN_LIST]
            document["deny"] = names

        self._edit(change)

    def _edit(self, change: Callable[[Any], None]) -> None:
        """Change ``policy.toml``, comments kept, wholly or not at all; it must stay readable."""
        import tomlkit
        from tomlkit.exceptions import TOMLKitError

        try:
            text = self.file.read_text() if self.file.exists() else ""
            document = tomlkit.parse(text)
            change(document)
            text = tomlkit.dumps(document)
        except (TOMLKitError, OSError, UnicodeDecodeError, TypeError, KeyError) as exc:
            raise ConfigError(
                f"{self.file} cannot be changed: {exc}.", next="Mend it with an editor."
            ) from exc
        read_policy(text)
        with durable.disk_errors("write the policy"):
            target = self.file.resolve()  # a symbolic link keeps being one
            target.parent.mkdir(parents=True, exist_ok=True)
            mode = target.stat().st_mode & 0o777 if target.exists() else None
            durable.replace_file(target, text.encode(), target.parent)
            if mode is not None:
                target.chmod(mode)


def _aside(folder: Path) -> Path:
    """Return where a community's folder lies while another takes its place."""
    return folder.with_name(f".{folder.name}.old")


def _restore(folder: Path) -> None:
    """Put a community's folder back, where the power went before another had its place."""
    if not folder.exists():
        with suppress(FileNotFoundError):
            durable.rename(_aside(folder), folder)


def _table(document: Any, name: str) -> Any:
    import tomlkit

    if name not in document:
        document[name] = tomlkit.table()
    return document[name]


def _stamp(path: Path) -> Stamp:
    try:
        status = os.stat(path)
    except OSError:
        return (path, None)
    return (path, status.st_mtime_ns, status.st_size, status.st_ino)
