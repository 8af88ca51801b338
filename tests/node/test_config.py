"""Configuration: four layers, one table, errors that name the key."""

import os
from pathlib import Path

import pytest

from node.config import (
    Config,
    child_environ,
    find_folders,
    load_config,
    set_value,
    terminal_is_dumb,
    unset_value,
    wants_trace,
)
from node.settings import settings
from p2p.errors import ConfigError

ADDRESSES = ("/ip4/1.2.3.4/tcp/1", "/dns4/x/tcp/2")


def load(home: Path, flags: dict[str, str] | None = None, **environ: str) -> Config:
    return load_config(flags, {"ALLOD_HOME": str(home), **environ})


def write(home: Path, text: str) -> Path:
    file = home / "config.toml"
    file.write_text(text)
    return file


def test_without_any_layer_the_table_holds(tmp_path: Path) -> None:
    """Where nothing is set every key has its default and says so."""
    config = load(tmp_path)
    assert config.store.folder == tmp_path / "store"
    assert config.store.quota == 200 << 30
    assert (config.p2p.port, config.http.port) == (9770, 9771)
    assert set(config.origins.values()) == {"default"}
    for setting in settings():
        if setting.key != "store.folder":
            assert config.value(setting.key) == setting.default


def test_flag_beats_environment_beats_file(tmp_path: Path) -> None:
    """Each layer beats the one before, and the origin names the winner."""
    file = write(tmp_path, "[p2p]\nport = 1\n[http]\nport = 1\n[log]\nlevel = 'error'\n")
    config = load(tmp_path, {"p2p.port": "3"}, ALLOD_P2P_PORT="2", ALLOD_HTTP_PORT="2")
    assert (config.p2p.port, config.http.port, config.log.level) == (3, 2, "error")
    assert config.origins["p2p.port"] == "on the command line"
    assert config.origins["http.port"] == "in the environment variable ALLOD_HTTP_PORT"
    assert config.origins["log.level"] == f"in {file}"


def test_short_variables_and_empty_ones(tmp_path: Path) -> None:
    """ALLOD_OFFLINE and ALLOD_LOG are short names; an empty variable is as if it were not set."""
    config = load(tmp_path, ALLOD_OFFLINE="1", ALLOD_LOG="debug", ALLOD_P2P_PORT="")
    assert config.p2p.offline
    assert config.log.level == "debug"
    assert config.p2p.port == 9770
    assert not load(tmp_path, ALLOD_OFFLINE="0").p2p.offline


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("store.quota", "20GiB", 20 << 30),
        ("limits.up", "5MB/s", 5_000_000),
        ("store.quota", "1.5 MB", 1_500_000),
        ("store.quota", "123", 123),
        ("store.quota", "none", None),
        ("store.reserve", "0", 0),
        ("p2p.bootstrap", "/ip4/1.2.3.4/tcp/1, /dns4/x/tcp/2", ADDRESSES),
        ("p2p.mdns", "off", False),
        ("gateway.listen", "0.0.0.0:80 [::]:0", ("0.0.0.0:80", "[::]:0")),
        ("seeding.hours", "22:00-07:00", "22:00-07:00"),
        ("seeding.hours", "always", "always"),
        ("seeding.ratio", "1.5", 1.5),
        ("seeding.ratio", "none", None),
        ("seeding.month", "500GB", 500_000_000_000),
        ("seeding.by_license", "non-commercial=group CC-BY-NC-4.0=none",
         ("non-commercial=group", "CC-BY-NC-4.0=none")),
        ("seeding.by_license", "gpl-3.0=lan", ("GPL-3.0-only=lan",)),
        ("p2p.dht", "client", "client"),
        ("store.folder", "/srv/x", Path("/srv/x")),
        ("publish.key", "alice", "alice"),
    ],
)  # fmt: skip
def test_every_kind_reads_what_it_writes(
    tmp_path: Path, key: str, text: str, value: object
) -> None:
    """A value given as a flag, and the same value set in the file, are equal."""
    assert load(tmp_path, {key: text}).value(key) == value
    set_value(tmp_path / "config.toml", key, [text])
    assert load(tmp_path).value(key) == value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[p2p]\nport = 'x'", ["p2p.port", "a whole number from 0 to 65535", "'x'", "config.toml"]),
        ("[p2p]\nport = 70000", ["p2p.port", "70000"]),
        ("[p2p]\nport = true", ["p2p.port", "True"]),
        ("[p2p]\nmdns = 1", ["p2p.mdns", "true or false"]),
        ("[p2p]\nbootstrap = '/ip4/1.2.3.4'", ["p2p.bootstrap", "multiaddrs"]),
        ("[p2p]\nbootstrap = ['1.2.3.4:9770']", ["p2p.bootstrap", "multiaddrs"]),
        ("[gateway]\nlisten = ['8080']", ["gateway.listen", "0.0.0.0:8080"]),
        ("[gateway]\nlisten = ['example.org:80']", ["gateway.listen", "with ports"]),
        ("[gateway]\nlisten = ['::1:80']", ["gateway.listen", "[::]:8080"]),
        ("[gateway]\nlisten = ['[1.2.3.4]:80']", ["gateway.listen"]),
        ("[gateway]\nlisten = ['1.2.3.4:70000']", ["gateway.listen"]),
        ("[seeding]\naudience = 'friends'", ["seeding.audience", "one of public, lan"]),
        ("[seeding]\nhours = '22-7'", ["seeding.hours", "22:00-07:00"]),
        ("[seeding]\nhours = '00:00-24:00'", ["seeding.hours", "always"]),
        ("[seeding]\nratio = 0", ["seeding.ratio", "a number"]),
        ("[seeding]\ngroup = ['all']", ["seeding.group", "peer ids"]),
        ("[seeding]\nby_license = ['noncommercial=group']", ["seeding.by_license", "families"]),
        ("[seeding]\nby_license = ['MIT=friends']", ["seeding.by_license"]),
        ("[p2p]\ndht = 'both'", ["p2p.dht", "one of server, client"]),
        ("[store]\nquota = 'lots'", ["store.quota", "'lots'"]),
        ("[store]\nquota = -1", ["store.quota", "-1"]),
        ("[store]\nfolder = 'here'", ["store.folder", "absolute"]),
        ("[publish]\nkey = ''", ["publish.key"]),
        ("[p2p]\nprot = 1", ["no configuration key 'p2p.prot'"]),
        ("port = 1", ["no configuration key 'port'"]),
        ("[p2p\n", ["not valid TOML", "config.toml"]),
        ("[log]\nlevel = '" + "x" * 9000 + "'", ["log.level", "..."]),
    ],
)
def test_an_error_names_key_expected_and_came(tmp_path: Path, text: str, words: list[str]) -> None:
    """Every wrong file is one sentence that names the key, what it expects and what came."""
    write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load(tmp_path)
    for word in words:
        assert word in caught.value.message
    assert len(caught.value.message) < 400


def test_a_misspelt_key_gets_the_nearest_name(tmp_path: Path) -> None:
    """The next thing to do for an unknown key is the key that was probably meant."""
    with pytest.raises(ConfigError) as caught:
        load(tmp_path).value("p2p.prot")
    assert "p2p.port" in caught.value.next
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, {"zzzzzz": "1"})
    assert "config list" in caught.value.next


def test_a_file_that_is_no_configuration_is_refused(tmp_path: Path) -> None:
    """A huge file, a binary one and a folder are refused by name, not parsed."""
    file = tmp_path / "config.toml"
    file.write_bytes(b"#" * (2 << 20))
    with pytest.raises(ConfigError, match="larger than"):
        load(tmp_path)
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)
    file.unlink()
    file.mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path)


def test_set_keeps_comments_and_mode(tmp_path: Path) -> None:
    """`config set` changes one value; comments, order and file mode stay."""
    file = write(tmp_path, "# mine\n[p2p]\nport = 1  # why\n\n[log]\nlevel = 'info'\n")
    file.chmod(0o640)
    assert set_value(file, "p2p.port", ["0"]) == "0"
    set_value(file, "p2p.bootstrap", ["/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/2"])
    set_value(file, "store.quota", ["5GB"])
    text = file.read_text()
    assert text.startswith("# mine\n[p2p]\nport = 0  # why\n")
    assert 'quota = "5GB"' in text
    assert file.stat().st_mode & 0o777 == 0o640
    assert load(tmp_path).p2p.bootstrap == ("/ip4/1.2.3.4/tcp/1", "/ip4/1.2.3.4/tcp/2")
    unset_value(file, "p2p.port")
    unset_value(file, "http.port")
    assert load(tmp_path).p2p.port == 9770
    assert "# mine" in file.read_text()
    assert [one.name for one in tmp_path.iterdir()] == ["config.toml"]


def test_set_follows_a_symbolic_link(tmp_path: Path) -> None:
    """A config.toml that is a link into a dotfiles folder stays a link."""
    real = tmp_path / "dotfiles.toml"
    real.write_text("# kept\n")
    link = tmp_path / "config.toml"
    link.symlink_to(real)
    set_value(link, "p2p.port", ["5"])
    assert link.is_symlink()
    assert "port = 5" in real.read_text()


def test_set_refuses_before_it_writes(tmp_path: Path) -> None:
    """A wrong value, no value, or two for one leave the file as it was."""
    file = write(tmp_path, "# same\n")
    for key, words in [("p2p.port", ["x"]), ("p2p.port", []), ("p2p.port", ["1", "2"]), ("no", [])]:
        with pytest.raises(ConfigError):
            set_value(file, key, words)
    assert file.read_text() == "# same\n"
    file.write_text("p2p = 1\n")
    with pytest.raises(ConfigError, match="not valid"):
        set_value(file, "p2p.port", ["1"])
    file.write_text("[p2p\n")
    with pytest.raises(ConfigError, match="not valid TOML"):
        set_value(file, "p2p.port", ["1"])


def test_set_says_when_the_file_cannot_be_written(tmp_path: Path) -> None:
    """A folder that is a file is one ConfigError."""
    (tmp_path / "f").write_text("")
    with pytest.raises(ConfigError, match="cannot be"):
        set_value(tmp_path / "f" / "config.toml", "p2p.port", ["1"])


def test_allod_home_isolates_a_node_wholly(tmp_path: Path) -> None:
    """With ALLOD_HOME every folder is under it; ALLOD_CONFIG moves the file alone."""
    folders = find_folders({"ALLOD_HOME": str(tmp_path), "XDG_DATA_HOME": "/elsewhere"})
    for folder in (folders.config_file, folders.data, folders.keys, folders.logs, folders.run):
        assert folder.is_relative_to(tmp_path)
    moved = find_folders({"ALLOD_HOME": str(tmp_path), "ALLOD_CONFIG": "/etc/allod.toml"})
    assert moved.config_file == Path("/etc/allod.toml")
    assert moved.data == tmp_path


def test_without_it_folders_follow_xdg() -> None:
    """The XDG variables choose, relative ones are ignored, and the usual places are the rest."""
    folders = find_folders({"XDG_CONFIG_HOME": "/c", "XDG_DATA_HOME": "/d", "XDG_STATE_HOME": "s"})
    state = Path("~").expanduser() / ".local/state/allod"
    assert folders.config_file == Path("/c/allod/config.toml")
    assert folders.data == Path("/d/allod")
    assert (folders.run, folders.logs) == (state / "run", state / "logs")


def test_the_token_is_bounded_and_never_shown(tmp_path: Path) -> None:
    """ALLOD_TOKEN must be long enough, and no repr shows it."""
    config = load(tmp_path, ALLOD_TOKEN="s" * 32)
    assert config.token == "s" * 32
    assert "ssss" not in repr(config)
    for wrong in ("short", "x" * 300, "with space in it, long"):
        with pytest.raises(ConfigError) as caught:
            load(tmp_path, ALLOD_TOKEN=wrong)
        assert wrong not in caught.value.message


def test_the_process_environment_is_the_default(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without an argument the real environment is read."""
    monkeypatch.setitem(os.environ, "ALLOD_HOME", str(tmp_path))
    monkeypatch.setitem(os.environ, "ALLOD_LOG", "debug")
    assert load_config().folders.data == tmp_path
    assert wants_trace()


def test_a_child_node_inherits_no_word_of_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A node started in a folder of its own gets the environment, but none of our ALLOD_ words."""
    monkeypatch.setenv("ALLOD_P2P_PORT", "1")
    monkeypatch.setenv("OTHER", "x")
    child = child_environ(tmp_path)
    assert child["OTHER"] == "x"
    assert {name for name in child if name.startswith("ALLOD_")} == {"ALLOD_HOME"}
    assert load_config(environ=child).folders.data == tmp_path


def test_a_broken_file_can_be_left_out(tmp_path: Path) -> None:
    """Without the file the other layers still count, so that the file can be put right."""
    write(tmp_path, "[p2p\n")
    environ = {"ALLOD_HOME": str(tmp_path), "ALLOD_HTTP_PORT": "5"}
    config = load_config({"p2p.port": "3"}, environ, read_file=False)
    assert (config.p2p.port, config.http.port) == (3, 5)


def test_dumb_terminals_are_known() -> None:
    """No TERM, or a dumb one, means no moving cursor."""
    assert terminal_is_dumb({})
    assert terminal_is_dumb({"TERM": "dumb"})
    assert not terminal_is_dumb({"TERM": "xterm-256color"})
