"""How a command shows that it is getting on, always on stderr.

A terminal gets a bar with bytes, rate, time left and the number of sources; a pipe or a dumb
terminal one line now and then, and none of what is done in a moment; ``--json`` the events
themselves as NDJSON; ``--quiet`` nothing but warnings.
"""

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from node.cli.text import count_text, duration_text, plain, size_text
from node.config import terminal_is_dumb
from node.messages import Event, Note, Progress, encode

if TYPE_CHECKING:
    from tqdm import tqdm

EVERY = 5.0  # seconds between two lines of one phase where there is no bar


class View:
    """Shows events; the base shows warnings only. Use it as a context manager, more than once."""

    def show(self, event: Event) -> None:
        """Take one event; never raises for what it says."""
        if isinstance(event, Progress):
            self.progress(event)
        elif event.level == "warning":
            self.line(f"warning: {event.text}")
        else:
            self.note(event)

    def note(self, note: Note) -> None:
        """Show a note that is no warning."""

    def progress(self, event: Progress) -> None:
        """Show how far it is."""

    def line(self, text: str) -> None:
        """Write one line."""
        print(plain(text), file=sys.stderr, flush=True)

    def close(self) -> None:
        """Leave stderr at the start of a line."""

    def __enter__(self) -> "View":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        exc: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class Lines(View):
    """One line every few seconds of a phase that takes longer, and one at its end."""

    def __init__(self) -> None:
        self._shown: dict[str, tuple[float, int]] = {}  # by phase: when it began or had a line

    def note(self, note: Note) -> None:
        self.line(note.text)

    def progress(self, event: Progress) -> None:
        now = time.monotonic()
        then, done = self._shown.setdefault(event.phase, (now, -1))
        ends = event.done == event.total and 0 <= done < event.done
        if ends or now - then >= EVERY:
            self._shown[event.phase] = (now, event.done)
            self.line(describe(event))


class Json(View):
    """The events as they are."""

    def show(self, event: Event) -> None:
        sys.stderr.write(encode(event).decode())
        sys.stderr.flush()


class Bars(View):
    """A bar for the phase that goes on, by tqdm."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._phase = ""

    def note(self, note: Note) -> None:
        self.line(note.text)

    def line(self, text: str) -> None:
        if self._bar is None:
            super().line(text)
        else:
            self._bar.write(plain(text), file=sys.stderr)

    def progress(self, event: Progress) -> None:
        if self._bar is None or self._phase != event.phase:
            self.close()
            self._bar, self._phase = _bar(event), event.phase
        bar = self._bar
        bar.total = event.total
        if event.sources:
            bar.set_postfix_str(_sources(event.sources), refresh=False)
        if event.done < bar.n:  # a phase that starts over
            bar.reset(event.total)
        bar.update(event.done - bar.n)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None


def _bar(event: Progress) -> "tqdm[Any]":
    import threading

    from tqdm import tqdm

    # One thread draws: tqdm needs neither its monitor nor a lock between processes.
    tqdm.monitor_interval = 0
    tqdm.set_lock(threading.RLock())
    counts_bytes = event.unit == "B"
    return tqdm(
        desc=event.phase,
        total=event.total,
        initial=event.done,
        unit="iB" if counts_bytes else f" {event.unit}",  # behind tqdm's M: MiB, as elsewhere
        unit_scale=counts_bytes,
        unit_divisor=1024,
        dynamic_ncols=True,
        leave=False,
        file=sys.stderr,
    )


def describe(event: Progress) -> str:
    """Write one progress event as a line: how far, how fast, how long still, from how many."""

    def count(number: float) -> str:
        return size_text(number) if event.unit == "B" else f"{number:.0f} {event.unit}"

    parts = [count(event.done)]
    if event.total:
        share = 100 * event.done // event.total
        done = count(event.done) if event.unit == "B" else str(event.done)
        parts = [f"{share}% ({done} of {count(event.total)})"]
    if event.rate >= 1:  # less is the average of a rate that was: it stands still
        parts.append(f"{count(event.rate)}/s")
        if event.total and event.total > event.done:
            parts.append(f"{duration_text((event.total - event.done) / event.rate)} left")
    if event.sources:
        parts.append(_sources(event.sources))
    return f"{event.phase}: " + ", ".join(parts)


def _sources(count: int) -> str:
    return count_text(count, "source")


def open_view(*, as_json: bool, quiet: bool) -> View:
    """Choose the view that fits the flags and the terminal."""
    if quiet:
        return View()
    if as_json:
        return Json()
    if sys.stderr.isatty() and not terminal_is_dumb():
        return Bars()
    return Lines()
