"""The verbs, in blocking code: fetch, publish, release, files, open_file.

Each is one operation of the node, which docs/reference/cli.md describes under the same name; the
errors are those of ``allod.errors``. ``ref`` is whatever the command line takes, or a Release.
The same verbs for trio: ``allod.trio``.
"""

import io
from collections.abc import Iterable
from os import PathLike
from typing import Unpack

from allod import wire
from allod.asked import (
    Publishing,
    fetch_params,
    publish_params,
    release_params,
    statement_params,
)
from allod.door import find_again, find_door
from allod.errors import of_node
from allod.reading import BLOCK, RangeFile, Remote
from allod.releases import File, Json, Published, Release, Watch, read_published, read_release
from allod.showing import listening, warn
from node.client import ask
from node.messages import FilesParams
from p2p.errors import AllodError, NoNode


def fetch(
    ref: str | Release,
    *,
    include: Iterable[str] = (),
    exclude: Iterable[str] = (),
    tensors: Iterable[str] = (),
    revision: str | None = None,
    local_dir: str | PathLike[str] | None = None,
    hf_cache: str | PathLike[str] | bool | None = None,
    peers: Iterable[str] = (),
    progress: Watch | bool | None = None,
    yes: bool = False,
    pin: bool = True,
    offline: bool = False,
) -> Release:
    """Bring a release, or a part of it, to this disk; ``path`` is then the folder of its files.

    ``include`` and ``exclude``: patterns of paths; ``tensors``: patterns of tensors' names, which
    needs ``local_dir``. ``revision``: a version or the CID of a manifest. ``local_dir``: a folder
    to put the files into, too. ``hf_cache``: True, or a folder, puts them into that cache of
    Hugging Face's clients, by links. ``peers``: multiaddrs to ask first. ``progress``: a function
    of a Progress, or True for a bar on stderr. ``yes`` trusts a publisher who is new here. Without
    ``pin`` the node may delete it when room is needed. ``offline``: only what is here already.

    What was interrupted goes on where it was. ``Missing``, ``Unreachable``, ``Denied``,
    ``UntrustedPublisher``, ``NotVerified``, ``StorageFailed``.
    """
    params = fetch_params(
        ref, include, exclude, tensors, revision, local_dir, peers, yes=yes, pin=pin,
        offline=offline, hf_cache=hf_cache,
    )  # fmt: skip
    got = perform("fetch", params, progress)
    shown = perform("files", FilesParams(got["ref"]))
    return read_release(shown, params.ref, params.peers, got)


def publish(
    folder: str | PathLike[str],
    name: str,
    *,
    progress: Watch | bool | None = None,
    **options: Unpack[Publishing],
) -> Published:
    """Publish a folder, or a single file, under a name such as ``alice/my-model``.

    ``alice`` is one of this machine's publishers: `allod key new alice` makes one. The files stay
    where they are. ``options`` are those of ``allod.Publishing``. ``InvalidRequest``, ``Missing``,
    ``StorageFailed``.
    """
    return read_published(perform("publish", publish_params(folder, name, options), progress))


def release(
    ref: str | Release,
    *,
    revision: str | None = None,
    peers: Iterable[str] = (),
    yes: bool = False,
) -> Release:
    """Look a release up and verify what its publisher signed; no file moves, ``path`` is None."""
    if isinstance(ref, Release) and not revision:
        return ref
    wanted = release_params(ref, revision, peers)
    if yes:
        perform("fetch", statement_params(wanted))
    shown = perform("files", wanted)
    warn(shown.get("warnings", ()))
    return read_release(shown, wanted.ref, wanted.peers)


def files(
    ref: str | Release,
    *,
    revision: str | None = None,
    peers: Iterable[str] = (),
    yes: bool = False,
) -> tuple[File, ...]:
    """List the files of a release, in the order of its manifest."""
    return release(ref, revision=revision, peers=peers, yes=yes).files


def open_file(
    ref: str | Release,
    path: str,
    *,
    block: int = BLOCK,
    revision: str | None = None,
    peers: Iterable[str] = (),
    yes: bool = False,
) -> io.BufferedReader:
    """Open one file of a release for reading in binary, without fetching it.

    What is read comes over the network, is verified, and stays in the store. ``block``: bytes that
    are read at least. The file is seekable and may be read from several threads; ``.raw.size`` is
    its size. Errors as of ``fetch``, also later, while it is read.
    """
    opened = release(ref, revision=revision, peers=peers, yes=yes)
    remote = Remote(opened.ref, opened.file(path))
    return io.BufferedReader(RangeFile(remote, max(block, 1)), max(block, 1))


def perform(name: str, params: object, progress: Watch | bool | None = None) -> Json:
    """Have the node do one operation; return its JSON object."""
    door = find_door()
    with listening(progress) as listen:
        try:
            try:
                return ask(door.presence, door.config, name, params, listen)
            except (ConnectionRefusedError, NoNode) as exc:  # it ended since it was found, or just
                other = find_again(door, refused=isinstance(exc, ConnectionRefusedError))
                if other == door:
                    raise
                return ask(other.presence, other.config, name, params, listen)
        except ConnectionRefusedError as exc:
            raise wire.went_away() from exc
        except AllodError as exc:
            raise of_node(exc) from exc
