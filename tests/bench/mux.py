"""How fast one libp2p connection is: py-libp2p's own sessions against ours, in one run.

    python -m tests.bench.mux [--mib 1024] [--only stock|ours]

Two processes on loopback, whole hosts, TCP + noise + yamux.  For each kind of session:
MB/s of one stream, of four streams, and of both directions at once (the sum); then small requests
a second (100 bytes there, 100 bytes back): one after the other on one stream, on 16 streams at
once, and each on a new stream (protocol negotiation included).
"""

import argparse
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable

import trio
from libp2p import create_yamux_muxer_option, new_host
from libp2p.abc import IHost, INetStream
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.crypto.x25519 import create_new_key_pair as new_noise_key
from libp2p.custom_types import TProtocol
from libp2p.network.stream.exceptions import StreamEOF
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.security.noise.transport import PROTOCOL_ID, Transport
from multiaddr import Multiaddr  # type: ignore[import-untyped]

from p2p.mux import install

SEND, ECHO = TProtocol("/bench/send"), TProtocol("/bench/echo")
TAKE = TProtocol("/bench/take")
PIECE = bytes(1 << 20)
SMALL = bytes(100)


def make_host() -> IHost:
    """A host that speaks noise and yamux over TCP, and nothing else."""
    keys = create_new_key_pair()
    noise = Transport(keys, noise_privkey=new_noise_key().private_key)
    return new_host(
        key_pair=keys, sec_opt={PROTOCOL_ID: noise}, muxer_opt=create_yamux_muxer_option()
    )


async def send(stream: INetStream, size: int) -> None:
    """Write ``size`` bytes."""
    for _ in range(size // len(PIECE)):
        await stream.write(PIECE)


async def take(stream: INetStream, size: int) -> None:
    """Read ``size`` bytes."""
    while size:
        size -= len(await stream.read(min(size, len(PIECE))))


async def read_all(stream: INetStream, size: int) -> bytes:
    """Exactly ``size`` bytes."""
    data = b""
    while len(data) < size:
        data += await stream.read(size - len(data))
    return data


async def serve() -> None:
    """The other process: answer until standard input ends."""
    host = make_host()

    async def on_send(stream: INetStream) -> None:
        await send(stream, int.from_bytes(await read_all(stream, 8), "big"))
        await stream.close()

    async def on_take(stream: INetStream) -> None:
        await take(stream, int.from_bytes(await read_all(stream, 8), "big"))
        await stream.write(b"!")
        await stream.close()

    async def on_echo(stream: INetStream) -> None:
        try:
            while True:
                await stream.write(await read_all(stream, len(SMALL)))
        except StreamEOF:
            await stream.close()

    host.set_stream_handler(SEND, on_send)
    host.set_stream_handler(TAKE, on_take)
    host.set_stream_handler(ECHO, on_echo)
    async with host.run([Multiaddr("/ip4/127.0.0.1/tcp/0")]):
        print(host.get_addrs()[0], flush=True)
        await trio.lowlevel.wait_readable(sys.stdin.fileno())  # its end


async def timed(*jobs: Callable[[], Awaitable[None]]) -> float:
    """Seconds for all jobs at once."""
    started = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for job in jobs:
            nursery.start_soon(job)
    return time.perf_counter() - started


async def measure(address: str, mib: int) -> None:
    """All numbers, printed as they come."""
    host = make_host()
    info = info_from_p2p_addr(Multiaddr(address))
    async with host.run([]):
        await host.connect(info)

        async def download(size: int) -> None:
            stream = await host.new_stream(info.peer_id, [SEND])
            await stream.write(size.to_bytes(8, "big"))
            await take(stream, size)
            await stream.close()

        async def upload(size: int) -> None:
            stream = await host.new_stream(info.peer_id, [TAKE])
            await stream.write(size.to_bytes(8, "big"))
            await send(stream, size)
            await read_all(stream, 1)
            await stream.close()

        async def ask(count: int) -> None:
            stream = await host.new_stream(info.peer_id, [ECHO])
            for _ in range(count):
                await stream.write(SMALL)
                await read_all(stream, len(SMALL))
            await stream.close()

        size = mib << 20

        async def show(name: str, total: int, *jobs: Callable[[], Awaitable[None]]) -> None:
            seconds = None
            with trio.move_on_after(60 + total / 30e6):
                seconds = await timed(*jobs)
            rate = f"{total / 1e6 / seconds:8.0f}" if seconds else "    hung"
            print(f"  {name:32} {rate} MB/s", flush=True)

        async def show_requests(
            name: str, count: int, *jobs: Callable[[], Awaitable[None]]
        ) -> None:
            print(f"  {name:32} {count / await timed(*jobs):8.0f} requests/s", flush=True)

        await show("one stream, download", size, lambda: download(size))
        await show("one stream, upload", size, lambda: upload(size))
        await show("four streams", size, *[lambda: download(size // 4)] * 4)
        await show_requests("one stream", 2000, lambda: ask(2000))
        await show_requests("16 streams at once", 8000, *[lambda: ask(500)] * 16)

        async def fresh() -> None:
            for _ in range(50):
                await ask(1)

        await show_requests("a new stream each, 8 at once", 400, *[fresh] * 8)
        half = size // 2
        await show("both ways at once", size, lambda: download(half), lambda: upload(half))


def main() -> None:
    """Measure both kinds, or be the far side of one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="how much each run moves")
    parser.add_argument("--only", choices=["stock", "ours"])
    parser.add_argument("--role", choices=["serve", "measure"], help=argparse.SUPPRESS)
    parser.add_argument("--address", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.role and args.only == "ours":
        install()
    if args.role == "serve":
        trio.run(serve)
    elif args.role == "measure":
        trio.run(measure, args.address, args.mib)
    else:
        for kind in [args.only] if args.only else ["stock", "ours"]:
            print(kind, flush=True)
            command = [sys.executable, "-m", "tests.bench.mux", "--only", kind, "--role"]
            with subprocess.Popen(
                [*command, "serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            ) as far:
                assert far.stdout is not None
                assert far.stdin is not None
                address = far.stdout.readline().strip()
                arguments = ["measure", "--address", address, "--mib", str(args.mib)]
                subprocess.run([*command, *arguments], check=False)
                far.stdin.close()


if __name__ == "__main__":
    main()
