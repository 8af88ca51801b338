"""What a real node keeps announced: what it holds, and nothing of what it has let go."""

from pathlib import Path

import trio
import trio.testing

from node.config import load_config
from node.node import open_node
from node.upkeep import release_keys
from tests.releases import noise, publish_into, write_folder


async def test_what_is_removed_is_announced_no_more(tmp_path: Path) -> None:
    """The release at once, its files when they are deleted; its publisher is known still."""
    flags = {"p2p.port": "0", "p2p.listen": "127.0.0.1", "p2p.mdns": "false", "store.reserve": "0"}
    config = load_config(flags, environ={"ALLOD_HOME": str(tmp_path / "home")}, read_file=False)
    files = {"a.bin": noise(3000, 1), "b.bin": noise(2000, 2)}
    with trio.fail_after(60):
        async with open_node(config, network=True) as node:
            release = await publish_into(node.store, write_folder(tmp_path / "files", files))
            cid, discovery = release.manifest.cid, node.discovery
            assert discovery is not None
            node.network().announce(release_keys(release.manifest))
            while discovery.announcing()[0] < 3 + len(files):
                await trio.testing.wait_all_tasks_blocked(0.01)
            await node.store.remove(cid)
            assert discovery.announcing()[0] == 1 + len(files)
            await node.store.gc()
            assert discovery.announcing()[0] == 1
