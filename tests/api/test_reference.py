"""The reference page has every public name, and none that is gone."""

import inspect
import re
from pathlib import Path

import allod
import allod.fs
import allod.trio
from allod.errors import _BY_CODE

PAGE = Path(__file__).parents[2] / "docs/reference/python.md"
TEXT = PAGE.read_text()


def test_every_name_is_described() -> None:
    """What __all__ exports stands in a table, or is named in the text."""
    for name in [*allod.__all__, *allod.fs.__all__, *allod.trio.__all__]:
        assert re.search(rf"`[\w.]*\b{name}\b[`(]", TEXT), name
    rows = set(re.findall(r"^\| `([A-Za-z_]+)[`(]", TEXT, re.MULTILINE))
    arguments = {
        word
        for verb in (allod.fetch, allod.open_file)
        for word in inspect.signature(verb).parameters
    }
    assert rows <= set(allod.__all__) | arguments, rows


def test_every_argument_is_described() -> None:
    """A verb's row has exactly its arguments, and the verbs for trio have the same."""
    for name in ("fetch", "publish", "release", "files", "open_file"):
        words = list(inspect.signature(getattr(allod, name)).parameters)
        shown = re.search(rf"^\| `{name}\((.*?)\)`", TEXT, re.MULTILINE)
        assert shown is not None, name
        listed = [word for word in shown[1].split(", ") if word != "*"]
        assert listed == ["**Publishing" if word == "options" else word for word in words]
        theirs = inspect.signature(getattr(allod.trio, name)).parameters
        ours = inspect.signature(getattr(allod, name)).parameters
        assert list(theirs) == list(ours)
        assert [one.default for one in theirs.values()] == [one.default for one in ours.values()]
    for name in allod.Publishing.__annotations__:
        assert f"`{name}`" in TEXT


def test_every_field_and_code_is_described() -> None:
    """The fields of what comes back, and the codes of each error."""
    for kind in (allod.Release, allod.Published, allod.File, allod.Progress):
        [row] = [line for line in TEXT.splitlines() if line.startswith(f"| `{kind.__name__}` |")]
        for field in kind.__dataclass_fields__:
            assert f"`{field}`" in row, (kind, field)
    for code, error in _BY_CODE.items():
        [row] = [line for line in TEXT.splitlines() if line.startswith(f"| `{error.__name__}` |")]
        assert f"`{code}`" in row
