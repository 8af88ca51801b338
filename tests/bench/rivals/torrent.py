"""libtorrent from PyPI, v1 and v2 torrents, plain or obfuscated; TCP only, two sessions, no DHT."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from tests.bench.agent import AgentRival, Fetch, Json, run_agent

NAMES = ("v1", "v1-obfuscated", "v2", "v2-obfuscated")
RIVALS = [AgentRival(f"libtorrent-{name}", __name__, name, ("libtorrent",)) for name in NAMES]


def _session(option: str) -> Any:
    lt: Any = import_module("libtorrent")
    policy = 0 if "obfuscated" in option else 2  # forced, or off
    return lt, lt.session(
        {
            "listen_interfaces": "127.0.0.1:0",
            "enable_dht": False,
            "enable_lsd": False,
            "enable_upnp": False,
            "enable_natpmp": False,
            "enable_incoming_utp": False,
            "enable_outgoing_utp": False,
            "allow_multiple_connections_per_ip": True,
            "in_enc_policy": policy,
            "out_enc_policy": policy,
            "allowed_enc_level": 2,  # RC4: with plain text after the handshake nothing is hidden
            "prefer_rc4": True,
        }
    )


def _add(lt: Any, session: Any, torrent: bytes, folder: Path, *, seed: bool) -> Any:
    wanted = lt.add_torrent_params()
    wanted.ti = lt.torrent_info(lt.bdecode(torrent))
    wanted.save_path = str(folder)
    wanted.flags &= ~(lt.torrent_flags.auto_managed | lt.torrent_flags.paused)
    if seed:
        wanted.flags |= lt.torrent_flags.seed_mode
    return session.add_torrent(wanted)


@contextmanager
def serve(folder: Path, home: Path, option: str) -> Iterator[Json]:
    """Hash a folder into a torrent and seed it."""
    lt, session = _session(option)
    files = [file for file in folder.rglob("*") if file.is_file()]
    what = files[0] if len(files) == 1 else folder
    begin = time.perf_counter()
    make = lt.create_torrent
    flags = make.v1_only if option.startswith("v1") else make.v2_only
    creator = make(lt.list_files(str(what)), flags=flags)
    lt.set_piece_hashes(creator, str(what.parent))
    torrent = lt.bencode(creator.generate())
    seconds = time.perf_counter() - begin
    handle = _add(lt, session, torrent, what.parent, seed=True)
    while not handle.status().is_seeding:
        time.sleep(0.01)
    yield {"publish": seconds, "port": session.listen_port(), "torrent": torrent.hex()}


@contextmanager
def receive(card: Json, home: Path, option: str) -> Iterator[Fetch]:
    """Add the torrent, dial the seed, wait until it seeds too."""
    lt, session = _session(option)

    def fetch() -> float:
        begin = time.perf_counter()
        handle = _add(lt, session, bytes.fromhex(card["torrent"]), home / "got", seed=False)
        state = handle.status().state
        while state in (lt.torrent_status.checking_files, lt.torrent_status.checking_resume_data):
            time.sleep(0.002)
            state = handle.status().state
        handle.connect_peer(("127.0.0.1", card["port"]))
        while not handle.status().is_seeding:
            session.wait_for_alert(20)
            session.pop_alerts()
        return time.perf_counter() - begin

    yield fetch


if __name__ == "__main__":
    run_agent(serve, receive)
