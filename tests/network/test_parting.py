"""What a host tells of its peers: how far away, who dialled, and that one went away."""

import sys

import trio

from tests.network.hosts import crew


async def test_a_host_knows_its_peers_and_hears_when_one_goes() -> None:
    """The round trip as the kernel has it, who dialled; the end of the last connection, once."""
    async with crew() as hosts:
        alice, bob = await hosts.host(), await hosts.host()
        await alice.host.connect(bob.host.addresses[0])
        [seen] = alice.host.peers()
        assert (seen.peer, seen.inbound) == (bob.host.peer_id, False)
        with trio.fail_after(60):
            while not bob.host.peers():
                await trio.lowlevel.checkpoint()
        assert bob.host.peers()[0].inbound
        if sys.platform == "linux":
            assert seen.round_trip is not None
            assert 0 < seen.round_trip < 10
        gone, told = trio.Event(), list[str]()

        def hear(peer: str) -> None:
            told.append(peer)
            gone.set()

        alice.host.parted.append(hear)
        bob.host.parted.append(told.append)
        await bob.stop()
        with trio.fail_after(60):
            await gone.wait()
        assert told == [bob.host.peer_id]  # and nobody is told of the end of their own host
