"""What a program hears while the node works: progress, by a function or a bar; notes, by logging.

Notes go to the logger ``allod``: what the command line would print, as INFO, its warnings as
WARNING.
"""

import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from allod import releases
from allod.releases import Watch
from node.messages import Event, Note, Progress

MAX_WARNED = 1000  # warnings; after so many nobody reads more

_log = logging.getLogger("allod")
_warned: set[str] = set()


@contextmanager
def listening(progress: Watch | bool | None) -> Iterator[Callable[[Event], None]]:
    """Give what hears a node's events; with True they are shown as the command line shows them."""
    if progress is True:
        from node.cli.progress import open_view

        with open_view(as_json=False, quiet=False) as view:
            yield view.show
        return

    def listen(event: Event) -> None:
        if isinstance(event, Note):
            level = logging.WARNING if event.level == "warning" else logging.INFO
            _log.log(level, "%s", event.text)
        elif callable(progress):
            progress(_shown(event))

    yield listen


def warn(texts: Iterable[str]) -> None:
    """Log what a person should hear of a release that is opened, each once in a process."""
    for text in texts:
        if text not in _warned and len(_warned) < MAX_WARNED:
            _warned.add(text)
            _log.warning("%s", text)


def _shown(event: Progress) -> releases.Progress:
    return releases.Progress(
        event.phase, event.done, event.total, event.rate, event.sources, event.unit
    )
