"""A release's folder, looked into before an engine sees a byte of it.

``inspect`` is asked with the folder in which the store shows a release under its own names. What
an engine would run or trust is refused or checked here: first that there is no code and nothing
that loads as code, then that the weights' headers are whole, then that the numbers in them are
those of a model. It reads headers, settings and the beginnings and ends of files, no weights.

    dangers       code, pickles, settings that import code
    gguf_file     which GGUF files are the model, and what they say
    repository    the same of safetensors in the Hub's layout
    tokenizer     which tokenizer it is, of those that can be converted

Blocks, for up to a second where there is a large tokenizer: call it in a worker thread.
"""

from pathlib import Path

from node.engine import gguf_file, repository
from node.engine.dangers import list_files, refuse_dangers
from node.engine.facts import Pooling, Purpose, Weights
from p2p.errors import NotFound, Refused, StoreError

__all__ = ["Pooling", "Purpose", "Weights", "inspect"]


def inspect(folder: Path, choose: str = "") -> Weights:
    """Say what model a release is; ``choose`` means one of several, by a part of its file's name.

    GGUF is taken where there are both. ``Refused``: code, pickles, no weights, or several models.
    ``VerificationFailed``: malformed headers or settings. ``NotFound``: a file is not here.
    """
    try:
        paths = list_files(folder)
        refuse_dangers(folder, paths)
        return _read(folder, paths, choose)
    except FileNotFoundError as exc:
        raise NotFound(
            f"A file of the release is not here: {exc.filename}.", next="allod verify REF"
        ) from exc
    except OSError as exc:
        raise StoreError(
            f"The release could not be read: {exc.strerror} ({exc.filename})."
        ) from exc


def _read(folder: Path, paths: list[str], choose: str) -> Weights:
    ggufs = [path for path in paths if path.lower().endswith(".gguf")]
    if ggufs and not choose.endswith(".safetensors"):
        return gguf_file.read_model(folder, gguf_file.choose_gguf(ggufs, choose))
    found = repository.choose_safetensors(folder, paths)
    if not found:
        raise Refused(
            "A model is served from GGUF or safetensors files, and this release has none.",
            next="`allod fetch` again without --include and --exclude, if it should have some.",
        )
    return repository.read_model(folder, found)
