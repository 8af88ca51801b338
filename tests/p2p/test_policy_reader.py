"""policy.toml is read strictly: what is not meant exactly so is an error that names the key."""

from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from p2p.cid import CID, Codec
from p2p.errors import ConfigError, UsageError
from p2p.keys import SecretKey
from p2p.policy import KEYS, check_petname, check_publisher, read_policy, reader
from p2p.policy.model import Licenses, Lineage, Need, Party, Policy
from p2p.policy.web import Web

ALICE, BOB, NOBODY = (str(CID.of(name, Codec.JSON)) for name in (b"alice", b"bob", b"nobody"))
KEY = SecretKey.from_seed(bytes(32)).public

WHOLE = f"""
# everything that there is
tofu = "never"
stale = "warn"
deny = ["bad.deny"]

[publishers]
alice = "{ALICE}"
bob = "{BOB}"

[web]
seeds = "never"
hosts = ["*.Example.org", "x.org"]
local_hosts = ["Mirror.lan", "10.0.0.1:8443", "[fd00::1]:80"]

[[subscribe]]
ref = "{BOB}/rules"
endorsers = false

[[rules]]
kind = "model"
publisher = ["alice", "{BOB}"]
name = "llama-*"
refuse = "not here"
formats = ["safetensors", "pickle"]
stale = "refuse"
require.signatures = {{ count = 2 }}
require.endorsements = {{ count = 2, by = ["bob", "{KEY.did}"], max_age = "4w" }}
require.evaluations = {{}}
licenses = {{ allow = ["permissive"], deny = ["CC-BY-NC-*"] }}
lineage = {{ depth = 3, unknown = "refuse", revoked = "allow" }}

[[rules]]
"""


def test_everything_is_read() -> None:
    """Every key comes out as what it says."""
    policy = read_policy(WHOLE)
    assert policy.publishers == {"alice": ALICE, "bob": BOB}
    assert (policy.tofu, policy.stale, policy.deny) == ("never", "warn", ("bad.deny",))
    assert [(one.ref, one.endorsers) for one in policy.subscriptions] == [(f"{BOB}/rules", False)]
    local = ("mirror.lan:443", "10.0.0.1:8443", "[fd00::1]:80")
    assert policy.web == Web("never", ("*.example.org", "x.org"), local)
    rule, empty = policy.rules
    assert rule.where == "rules[0]"
    assert (rule.kinds, rule.names, rule.refuse) == (("model",), ("llama-*",), "not here")
    assert rule.publishers == (Party("alice", ALICE), Party(BOB, BOB))
    assert rule.formats == frozenset({"safetensors", "pickle"})
    assert rule.signatures == Need(2)
    by = (Party("bob", BOB), Party(KEY.did, key=KEY))
    assert rule.endorsements == Need(2, by, timedelta(weeks=4))
    assert rule.evaluations == Need(1)
    assert rule.licenses == Licenses(("permissive",), ("CC-BY-NC-*",))
    assert (rule.lineage, rule.stale) == (Lineage(3, "refuse", "allow"), "refuse")
    assert (empty.where, empty.licenses, empty.formats) == ("rules[1]", None, None)
    assert policy.petname(BOB) == "bob"
    assert policy.petname(NOBODY) is None


def test_nothing_is_the_default() -> None:
    """An empty file is the built-in policy."""
    assert read_policy("") == Policy()
    assert (Policy().tofu, Policy().stale) == ("ask", "refuse")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tofu = 'perhaps'", "tofu expects ask, never or always, but 'perhaps' came"),
        ("web.seeds = 'ask'", "web.seeds expects allow or never, but 'ask' came"),
        ("web.hosts = ['*']", "web.hosts expects a list of names"),
        ("web.hosts = ['https://x.org']", "web.hosts expects a list of names"),
        ("web.hosts = ['a.*.org']", "web.hosts expects a list of names"),
        ("web.hosts = ['x.org:443']", "web.hosts expects a list of names"),
        ("web.local_hosts = ['*.lan']", "web.local_hosts expects a list of names"),
        ("web.local_hosts = ['x:0']", "web.local_hosts expects a list of names"),
        ("web.local_hosts = ['x:65536']", "web.local_hosts expects a list of names"),
        ("web.host = []", "There is no policy key web.host."),
        ("tofu = true", "tofu expects ask, never or always, but True came"),
        ("stale = 'never'", "stale expects refuse or warn"),
        ("tof = 'ask'", "no policy key tof"),
        ("deny = 'a'", "deny expects a list of files"),
        ("deny = [1]", "deny expects a list of files"),
        (f"deny = {['x'] * 65}", "deny expects"),
        ("= 1", "not valid TOML"),
        ("x = " + "[" * 5000, "not valid TOML"),
        ("a." * 500_000 + "a = 1", "at most 512 dots"),
        ("publishers = 1", "publishers expects a table"),
        ("[publishers]\nalice = 'short'", "publishers.alice expects a petname and a publisher id"),
        (f"[publishers]\n'a b' = '{ALICE}'", "publishers.a b expects"),
        (f"[publishers]\n'{BOB}' = '{ALICE}'", f"publishers.{BOB} expects"),
        ("rules = 1", "rules expects tables [[rules]]"),
        ("rules = [1]", "rules[0] expects a table"),
        ("[[rules]]\nkind = 'modl'", "rules[0].kind expects model, dataset"),
        ("[[rules]]\nkin = 'model'", "no policy key rules[0].kin"),
        ("[[rules]]\nname = ''", "rules[0].name expects"),
        ("[[rules]]\nname = []", "rules[0].name expects"),
        ("[[rules]]\nkind = []\nformats = ['pickle']", "rules[0].kind expects"),
        ("[[rules]]\npublisher = []\nformats = ['pickle']", "rules[0].publisher expects"),
        ("[[rules]]\nrequire.endorsements.by = []", "rules[0].require.endorsements.by expects"),
        ('[[rules]]\nname = "a\\nb"', "rules[0].name expects"),
        ("[[rules]]\nformats = ['zip']", "rules[0].formats expects a list of safetensors"),
        ("[[rules]]\npublisher = 'carol'", "names 'carol', who is not in [publishers]"),
        (f"[[rules]]\npublisher = '{KEY.did}'", "rules[0].publisher expects"),
        ("[[rules]]\nlicenses = ['MIT']", "rules[0].licenses expects a table"),
        ("[[rules]]\nlicenses.alow = ['MIT']", "no policy key rules[0].licenses.alow"),
        ("[[rules]]\nrequire.endorsement = {}", "no policy key rules[0].require.endorsement"),
        ("[[rules]]\nrequire.endorsements = 2", "rules[0].require.endorsements expects a table"),
        ("[[rules]]\nrequire.endorsements.count = 0", "count expects a whole number from 1 to 64"),
        ("[[rules]]\nrequire.endorsements.count = true", "count expects a whole number"),
        ("[[rules]]\nrequire.signatures.max_age = '1d'", "no policy key"),
        ("[[rules]]\nrequire.endorsements.max_age = '5 minutes'", "max_age expects an age"),
        ("[[rules]]\nrequire.endorsements.by = ['did:key:z6Mk']", "by expects a list"),
        (f"[[rules]]\nrequire.signatures = {{count = 2, by = ['{BOB}']}}", "asks for 2 of 1"),
        (f"[[rules]]\nrequire.signatures = {{count = 2, by = ['{BOB}', '{BOB}']}}", "2 of 1"),
        ("[[rules]]\nlineage.depth = 65", "rules[0].lineage.depth expects"),
        ("[[rules]]\nlineage.unknown = 'ask'", "rules[0].lineage.unknown expects"),
        ("[[subscribe]]\nendorsers = true", "subscribe[0].ref is missing"),
        ("[[subscribe]]\nref = 'x'\nendorsers = 1", "subscribe[0].endorsers expects true or false"),
    ],
)
def test_every_slip_is_named(text: str, said: str) -> None:
    """A wrong key, kind, choice or name is refused with its full name."""
    with pytest.raises(ConfigError) as caught:
        read_policy(text)
    assert said in caught.value.message
    assert len(caught.value.message) < 400


@pytest.mark.parametrize(
    "text",
    [
        "tofu = 'always'", "stale = 'warn'", "[[subscribe]]\nref = 'x'", "deny = ['../up']",
        "deny = ['/etc/passwd']", "web.hosts = ['x.org']", "web.seeds = 'allow'",
    ],
)  # fmt: skip
def test_a_community_cannot_let_anything_in(text: str) -> None:
    """The policy of a community has no key that would loosen the owner's, and reads no files."""
    if not text.startswith("deny"):
        read_policy(text)
    with pytest.raises(ConfigError):
        read_policy(text, community=True)
    assert read_policy("deny = ['lists/bad.deny']", community=True).deny == ("lists/bad.deny",)


def test_bounds_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    """A policy that is too large is refused before it costs anything."""
    with pytest.raises(ConfigError, match="1,048,576 characters"):
        read_policy("#" * (reader.MAX_POLICY + 1))
    with pytest.raises(ConfigError, match=r"at most 1000 \[\[rules\]\]"):
        read_policy("[[rules]]\n" * 1001)
    monkeypatch.setattr(reader, "MAX_PUBLISHERS", 1)
    with pytest.raises(ConfigError, match="at most 1 publishers"):
        read_policy(WHOLE)


def test_names_are_checked_where_they_are_made() -> None:
    """A petname is no id and an id no petname, so neither is taken for the other."""
    assert check_petname("alice") == "alice"
    assert check_publisher(ALICE) == ALICE
    for petname in ("", "a/b", "ä", ALICE, "-x"):
        with pytest.raises(UsageError):
            check_petname(petname)
    with pytest.raises(UsageError):
        check_publisher("alice")


def test_the_reader_takes_the_keys_of_the_table() -> None:
    """WHOLE has every key of the table, so the table and the reader say the same."""
    for key in KEYS:
        last = key.name.rpartition(".")[2].removesuffix("[]")
        assert last == "*" or last in WHOLE, key.name


def mutations() -> st.SearchStrategy[str]:
    """Policies with characters changed, taken out, put in; and lines moved."""
    place = st.integers(0, len(WHOLE) - 1)
    inserted = st.text(max_size=12) | st.sampled_from(
        ["[[rules]]", "{", "}", "=", "'", '"', "[", "true", "0", "-1", "1e999", "\n", "nan", "."]
    )

    def change(edits: list[tuple[int, int, str]]) -> str:
        text = WHOLE
        for at, size, new in edits:
            text = text[:at] + new + text[at + size :]
        return text

    return st.lists(st.tuples(place, st.integers(0, 40), inserted), min_size=1, max_size=4).map(
        change
    )


def never_breaks(text: str) -> None:
    """A mutated policy is read, or refused with one sentence; and never trusts anybody new."""
    for community in (False, True):
        try:
            policy = read_policy(text, community=community)
        except ConfigError:
            continue
        assert all(40 <= len(id) <= 128 for id in policy.publishers.values())
        if community:
            assert (policy.tofu, policy.stale, policy.subscriptions) == ("ask", "refuse", ())


@settings(max_examples=300, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations())
def test_mutated_policies(text: str) -> None:
    """No mutation crashes the reader."""
    never_breaks(text)


@pytest.mark.long
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
@given(mutations())
def test_ten_thousand_mutated_policies(text: str) -> None:
    """None of ten thousand mutations crashes the reader."""
    never_breaks(text)
