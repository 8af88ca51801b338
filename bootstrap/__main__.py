"""``python -m bootstrap``: run a bootstrap server until it is told to stop."""

import argparse
import json
import logging
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import trio

from p2p.errors import AllodError, StoreError, culprit
from p2p.slim import slim_imports

EPILOG = """
example:
  python -m bootstrap --home /var/lib/allod-bootstrap --announce /dns4/boot.example.org/tcp/9770
"""


def parser() -> argparse.ArgumentParser:
    """Return the command line's parser; README.md lists its options."""
    made = argparse.ArgumentParser(
        prog="python -m bootstrap",
        description="Run a bootstrap server: a DHT node with a health page and no store.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = made.add_argument
    add(
        "--home",
        type=Path,
        required=True,
        metavar="FOLDER",
        help="folder for the identity and the known peers, made at need",
    )
    add("--port", type=_port, default=9770, help="TCP port for peers, 0 for a free one (9770)")
    add(
        "--listen",
        action="append",
        metavar="IP",
        help="address to listen on for peers, repeatable (0.0.0.0)",
    )
    add(
        "--announce",
        action="append",
        default=[],
        metavar="MULTIADDR",
        help="address that others are told, repeatable (those of the interfaces)",
    )
    add(
        "--bootstrap",
        action="append",
        default=[],
        metavar="MULTIADDR",
        help="another server to join, repeatable",
    )
    add("--swarm-key", type=Path, metavar="FILE", help="the key of the private network it is for")
    add(
        "--member",
        action="append",
        default=[],
        metavar="PEER",
        help="peer id that may connect, as no other may then, repeatable",
    )
    add("--peers", type=Path, metavar="FILE", help="a peers.toml that names the other servers")
    add(
        "--http-port",
        type=_port,
        default=9772,
        help="port of the health page, 0 for a free one (9772)",
    )
    add("--http-listen", default="127.0.0.1", metavar="IP", help="its address (127.0.0.1)")
    add(
        "--address-file",
        type=Path,
        metavar="FILE",
        help="write the first address there when the server runs, for scripts",
    )
    add(
        "--relay-rate",
        type=int,
        default=2 << 20,
        metavar="BYTES",
        help="bytes a second carried for peers that nobody can dial, 0 for none (2097152)",
    )
    add("--json", action="store_true", help="print the ready line as JSON")
    add("--verbose", action="store_true", help="log more")
    return made


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65535:
        raise ValueError(text)
    return port


def main(words: Sequence[str] | None = None) -> int:
    """Run the server; returns the exit code."""
    options = parser().parse_args(words)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
    )
    try:
        trio.run(run, options)
    except (AllodError, ExceptionGroup) as exc:
        error = culprit(exc) if isinstance(exc, BaseExceptionGroup) else exc
        if not isinstance(error, AllodError):
            raise
        print(" ".join(filter(None, (f"error: {error}", error.next))), file=sys.stderr)
        return error.exit_code
    return 0


async def run(options: argparse.Namespace) -> None:
    """Serve until SIGTERM or SIGINT."""
    # Imported here: libp2p takes more than a second, and --help needs none of it.
    from bootstrap.peers import addresses_but, read_servers
    from node.keyring import Keyring
    from node.private import read_swarm_key
    from node.upkeep import keep_peers, read_peers

    with slim_imports():
        from p2p.autonat import open_autonat
        from p2p.discovery import open_discovery
        from p2p.host import HostSettings, open_host
        from p2p.relay.places import RelayLimits
        from p2p.relay.relaying import RelaySettings, open_relaying
    from bootstrap.health import Health, serve_health

    key = await trio.to_thread.run_sync(Keyring(options.home).node)
    servers = await trio.to_thread.run_sync(read_servers, options.peers) if options.peers else ()
    swarm_key = await trio.to_thread.run_sync(read_swarm_key, options.swarm_key)
    file = options.home / "peers.json"
    settings = HostSettings(
        listen_port=options.port,
        listen_hosts=tuple(options.listen or ["0.0.0.0"]),
        announce=tuple(options.announce),
        bootstrap=(*options.bootstrap, *addresses_but(servers, key.public.peer_id)),
        known_peers=await read_peers(file),
        swarm_key=swarm_key,
        members=frozenset(options.member),
        dht="server",
        mdns=False,
    )
    limits = RelayLimits(rate=options.relay_rate)
    relay = RelaySettings("never", "always" if options.relay_rate else "never", limits=limits)
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with (
            open_host(key, settings) as host,
            open_autonat(host),
            open_relaying(host, relay) as relaying,
            open_discovery(host) as discovery,
            trio.open_nursery() as nursery,
        ):
            health = Health(host, discovery, relaying, time.time())
            web, port = await nursery.start(
                serve_health, health, (options.http_listen,), options.http_port
            )
            nursery.start_soon(keep_peers, discovery, file)
            if options.address_file:
                await _write_address(options.address_file, host.addresses[0])
            _say_ready(options, host.peer_id, host.addresses, _url(web, port))
            async for _ in signals:
                break
            nursery.cancel_scope.cancel()


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _say_ready(options: argparse.Namespace, peer: str, addresses: Sequence[str], url: str) -> None:
    if options.json:
        print(
            json.dumps({"ok": True, "peer": peer, "addresses": list(addresses), "http": url}),
            flush=True,
        )
    else:
        print(f"ready peer={peer} http={url} addresses={','.join(addresses)}", flush=True)


async def _write_address(file: Path, address: str) -> None:
    """Write the address whole or not at all: whoever waits for the file reads no half of it."""
    half = file.with_name(file.name + ".new")
    try:
        await trio.Path(half).write_text(f"{address}\n")
        await trio.Path(half).replace(file)
    except OSError as exc:
        raise StoreError(f"The address could not be written to {file} ({exc}).") from exc


if __name__ == "__main__":
    sys.exit(main())
