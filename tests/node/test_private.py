"""The commands of a private network, as a person types them, without a node."""

import json
import stat
from pathlib import Path

import pytest

from node.config import load_config
from node.doctor.private import look_at_private
from node.private import describe, open_private, peers_file, read_swarm_key
from p2p.errors import ConfigError, StoreError
from p2p.keys import SecretKey
from p2p.swarmkey import SwarmKey
from tests.node.conftest import Said

MEMBER = SecretKey.generate().public.peer_id


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home of its own."""
    monkeypatch.setenv("ALLOD_HOME", str(tmp_path))
    return tmp_path


def test_new_makes_a_key_and_enters(allod: Said, home: Path) -> None:
    """The file is this user's alone, the configuration names it, and nothing shows the key."""
    code, out, err = allod("network", "new", "--json")
    assert code == 0
    found = json.loads(out)
    file = home / "keys" / "swarm.key"
    assert found["file"] == str(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    key = SwarmKey.parse(file.read_text())
    assert found["fingerprint"] == key.fingerprint
    shown = out + err
    for words in (("network", "show"), ("config", "list"), ("config", "get", "p2p.swarm_key"),
                  ("doctor",), ("network", "show", "--json"), ("status",)):  # fmt: skip
        _, out, err = allod(*words)
        shown += out + err
    assert key.secret.hex() not in shown + (home / "config.toml").read_text()
    assert shown.count(key.fingerprint) >= 4


def test_a_key_is_not_written_over(allod: Said, home: Path, tmp_path: Path) -> None:
    """Neither `new` nor the `join` of another network destroys the key of this one."""
    allod("network", "new")
    before = (home / "keys" / "swarm.key").read_text()
    other = tmp_path / "other.key"
    other.write_text(SwarmKey.generate().text)
    for words in (("network", "new"), ("network", "join", str(other))):
        code, _, err = allod(*words)
        assert code == 2
        assert "not written over" in err
        assert (home / "keys" / "swarm.key").read_text() == before


def test_join_takes_a_file(allod: Said, home: Path, tmp_path: Path) -> None:
    """The key becomes this node's, and joining the same network twice is no error."""
    key = SwarmKey.generate()
    given = tmp_path / "given.key"
    given.write_text(key.text)
    for _ in range(2):
        code, out, _ = allod("network", "join", str(given))
        assert code == 0
        assert key.fingerprint in out
    assert read_swarm_key(load_config().p2p.swarm_key) == key
    code, _, err = allod("network", "join", str(home / "config.toml"))
    assert code == 2
    assert "three lines" in err
    code, _, err = allod("network", "join", str(home / "nothing"))
    assert code == 2
    assert "cannot be read" in err


def test_members_are_added_and_removed(allod: Said) -> None:
    """The list is config.toml's; the last member stays, and what is no peer id is refused."""
    other = SecretKey.generate().public.peer_id
    code, out, _ = allod("network", "add", MEMBER, other, MEMBER)
    assert (code, out) == (0, "2 members may connect\n")
    code, out, _ = allod("network", "rm", other)
    assert (code, out) == (0, "1 member may connect\n")
    assert load_config().p2p.members == (MEMBER,)
    code, _, err = allod("network", "rm", MEMBER)
    assert code == 2
    assert "everybody may connect" in err
    for wrong in ("all", "bob"):
        assert allod("network", "add", wrong)[0] == 2
    assert load_config().p2p.members == (MEMBER,)


def test_a_list_that_stands_elsewhere_is_not_changed_here(
    allod: Said, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A change that another layer would beat is refused, not lost."""
    monkeypatch.setenv("ALLOD_P2P_MEMBERS", MEMBER)
    code, _, err = allod("network", "rm", MEMBER)
    assert code == 2
    assert "ALLOD_P2P_MEMBERS" in err


def test_a_lost_or_broken_key_keeps_the_node_from_starting(home: Path) -> None:
    """A node that should be private is never public by a lost file."""
    file = home / "lost.key"
    config = load_config({"p2p.swarm_key": str(file)})
    with pytest.raises(ConfigError, match="not there"):
        open_private(config)
    file.write_text("/key/swarm/psk/1.0.0/\n/base16/\nabcd")
    file.chmod(0o600)
    with pytest.raises(StoreError, match="not a swarm key") as caught:
        open_private(config)
    assert "abcd" not in str(caught.value)
    file.chmod(0o644)
    with pytest.raises(StoreError, match="mode 0644"):
        open_private(config)


@pytest.mark.parametrize("endpoint", ["0.0.0.0:8080", "[::]:8080", "8.8.8.8:80"])
def test_the_public_gateway_stays_closed(endpoint: str) -> None:
    """A gateway for everybody and a private network are not had together, an inner one is."""
    given = {"p2p.members": MEMBER, "gateway.listen": endpoint}
    with pytest.raises(ConfigError, match=r"gateway\.listen"):
        open_private(load_config(given))
    open_private(load_config({"gateway.listen": endpoint}))
    open_private(load_config(given | {"gateway.listen": "192.168.1.2:8080"}))


def test_doctor_says_what_does_not_fit(allod: Said, home: Path) -> None:
    """A way into the network that is no member, and a key that is not used."""
    config = load_config(
        {"p2p.members": MEMBER, "p2p.bootstrap": f"/ip4/192.0.2.1/tcp/1/p2p/{MEMBER}"}
    )
    assert [one.level for one in look_at_private(config)] == ["ok"]
    other = SecretKey.generate().public.peer_id
    config = load_config({"p2p.members": MEMBER, "p2p.peers": f"/ip4/192.0.2.1/tcp/1/p2p/{other}"})
    assert [one.level for one in look_at_private(config)] == ["ok", "warning"]
    allod("network", "new")
    assert [one.level for one in look_at_private(load_config())] == ["ok"]
    allod("config", "unset", "p2p.swarm_key")
    assert [one.level for one in look_at_private(load_config())] == ["warning"]


def test_each_network_remembers_its_own_peers() -> None:
    """Peers of the public network are not dialled from a private one; a line says which it is."""
    config, key = load_config(), SwarmKey(bytes(32))
    assert peers_file(config, None).name == "peers.json"
    assert peers_file(config, key).name == f"peers-{key.fingerprint[:8]}.json"
    assert describe(None, ()) == ""
    assert describe(key, (MEMBER,)) == (
        f"In a private network: swarm key {key.fingerprint}, 1 member."
    )
