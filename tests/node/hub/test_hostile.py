"""Requests that no client of the Hub sends: each gets a clear answer, and none a 500."""

from urllib.parse import urlsplit

import pytest

from node.api.hub.asks import Ask, read_api, read_resolve
from node.hub.resolving import Missing
from tests.node.door import Door, Story, request, split
from tests.node.hub.conftest import World

API = "/api/models/alice/tiny"
FILE = "/alice/tiny/resolve/main/"
STRANGE = [
    (FILE + "../../../etc/passwd", 404),
    (FILE + "%2e%2e/%2e%2e/config.json", 404),
    (FILE + "..%2Fconfig.json", 404),
    (FILE + "%2Fetc%2Fpasswd", 404),
    (FILE + "/config.json", 404),
    (FILE + "config.json%00", 404),
    (FILE + "config.json/", 404),
    (FILE + "%ff%fe", 404),
    (FILE + "%", 404),
    (FILE + "%0d%0aset-cookie:%20a=b", 404),
    (FILE, 404),
    (FILE + "a" * 9000, 404),
    ("/alice/tiny/resolve/main", 404),
    ("/alice/tiny/resolve/", 404),
    ("/alice/tiny/resolve//config.json", 404),
    ("/alice/tiny/resolve/%00/config.json", 404),
    ("/resolve/main/config.json", 404),
    ("/resolve/", 404),
    ("/x/resolve", 404),
    ("//resolve/main/a", 404),
    ("///resolve/main/a", 404),
    ("/datasets/resolve/main/a", 404),
    ("/datasets//resolve/main/a", 404),
    ("/..%2F../x/resolve/main/a", 404),
    ("/a%2Fresolve%2Fmain%2Fb", 404),
    ("/a/b/resolve%2Fmain%2Fc", 404),
    ("/alice/" + "n" * 200 + "/resolve/main/a", 404),
    ("/alice/.git/resolve/main/a", 404),
    ("/api/", 404),
    ("/api//", 404),
    ("/api%2Fmodels", 404),
    ("/api%2Fmodels/alice/tiny", 404),
    ("/api/whoami-v2", 404),
    ("/api/models//", 200),
    ("/api/models/alice/tiny/", 404),
    ("/api/models/alice/tiny/nothing", 404),
    ("/api/models/a/b/c/d/e/f", 404),
    ("/api/models/" + "a" * 9000, 404),
    ("/api/models/%ff/%00", 404),
    ("/api/models/alice%2Ftiny", 200),
    (API + "/revision", 200),
    (API + "/revision/", 404),
    (API + "/revision/..", 404),
    (API + "/revision/" + "a" * 1000, 404),
    (API + "/tree", 200),
    (API + "/tree/main/..", 404),
    (API + "/tree/main/config.json", 404),
    (API + "/tree/main?limit=0", 200),
    (API + "/tree/main?limit=-1", 200),
    (API + "/tree/main?limit=x", 200),
    (API + "/tree/main?limit=" + "9" * 5000, 200),
    (API + "/tree/main?cursor=", 400),
    (API + "/tree/main?cursor=x", 400),
    (API + "/tree/main?cursor=LTE=", 400),  # -1
    (API + "/tree/main?cursor=OTk5OTk5OTk5OTk5OTk5OTk5OTk=", 400),  # too many nines
    (API + "/tree/main?cursor=OTk5OTk5OQ==", 200),  # behind the end
    (API + "/tree/main?cursor=%ff", 400),
    (API + "/commits/nothing", 404),
    (API + "/refs/main", 200),
    (API + "/paths-info/main", 405),
    ("/api/models?search=" + "a" * 5000, 200),
    ("/api/models?search=%00%ff&author=%ff&limit=1&limit=2", 200),
]


@pytest.mark.parametrize(
    ("raw", "ask"),
    [
        ("/api/models", Ask("model", "search")),
        ("/api/datasets/", Ask("dataset", "search")),
        ("/api/models/o/r", Ask("model", "info", "o/r")),
        ("/api/models/r", Ask("model", "info", "r")),
        ("/api/models/r/revision/x", Ask("model", "info", "r", "x")),
        ("/api/models/o/r/revision/refs%2Fpr%2F1?a=/b", Ask("model", "info", "o/r", "refs/pr/1")),
        ("/api/models/o/r/tree/v/a%20b/c/", Ask("model", "tree", "o/r", "v", "a b/c")),
        ("/api/models/r/refs", Ask("model", "refs", "r")),
        ("/api/models/o/r/refs", Ask("model", "refs", "o/r")),
        ("/api/models/o/tree/tree/v", Ask("model", "tree", "o/tree", "v")),
        ("/api/datasets/r/paths-info/v", Ask("dataset", "paths-info", "r", "v")),
    ],
)
def test_paths_of_the_api(raw: str, ask: Ask) -> None:
    """A path is cut before it is unescaped, and a repository has one part or two."""
    assert read_api(raw.encode()) == ask


@pytest.mark.parametrize(
    ("raw", "ask"),
    [
        ("/o/r/resolve/v/a/b", Ask("model", "resolve", "o/r", "v", "a/b")),
        ("/r/resolve/v/a%2Fb", Ask("model", "resolve", "r", "v", "a/b")),
        ("/datasets/o/r/resolve/v%2Fw/a", Ask("dataset", "resolve", "o/r", "v/w", "a")),
        ("/datasets/r/resolve/v/resolve/a", Ask("dataset", "resolve", "r", "v", "resolve/a")),
        ("/datasets/resolve/v/a", Ask("model", "resolve", "datasets", "v", "a")),
    ],
)
def test_paths_of_files(raw: str, ask: Ask) -> None:
    """The word resolve stands behind the repository; datasets are below their own word."""
    assert read_resolve(raw.encode()) == ask


@pytest.mark.parametrize("raw", ["/a", "/a/b", "/a%2Fresolve%2Fv%2Fb", "/a/b/resolve%2Fv", "/"])
def test_what_is_no_path_of_a_file(raw: str) -> None:
    """Slashes that were escaped divide nothing."""
    with pytest.raises(Missing):
        read_resolve(raw.encode())


async def test_strange_paths(world: World) -> None:
    """They are not found, or the client's fault; HEAD answers the same."""
    await world.publish()
    door = Door(urlsplit(world.holder.url).port or 0, Story())
    for method in ("GET", "HEAD"):
        for path, status in STRANGE:
            answer = await door.talk(request(path, b"", door.port, method=method))
            assert split(answer)[0] == status, (path, answer[:300])
            assert b"\nset-cookie" not in answer


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_nothing_can_be_written(world: World, method: str) -> None:
    """Whatever changes something at the Hub is not for a node, however much of it comes."""
    await world.publish()
    door = Door(urlsplit(world.holder.url).port or 0, Story())
    body = b"{" + b" " * (2 << 20)
    for path in (API, API + "/tree/main", API + "/refs", "/api/models", FILE + "config.json"):
        answer = await door.talk(request(path, body, door.port, method=method))
        assert split(answer)[0] == 405
    for path in ("/api/repos/create", API + "/commit/main", API + "/preupload/main"):
        answer = await door.talk(request(path, body, door.port, method=method))
        assert split(answer)[0] in (404, 405)


async def test_a_get_with_a_body(world: World) -> None:
    """It is passed over."""
    await world.publish()
    door = Door(urlsplit(world.holder.url).port or 0, Story())
    raw = request(FILE + "config.json", b"x" * (1 << 20), door.port, method="GET")
    assert split(await door.talk(raw))[0] == 200


async def test_pages_of_other_sites_get_nothing(world: World) -> None:
    """No web page finds out what is here."""
    await world.publish()
    for path in (API, FILE + "config.json"):
        answer = await world.holder.get(path, origin="https://evil.example")
        assert answer.status_code == 403
        answer = await world.holder.get(path, host="evil.example")
        assert answer.status_code == 403
