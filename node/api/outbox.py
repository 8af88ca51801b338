"""Messages on their way from an operation to whoever waits for it, in order.

How far an operation is it may say thousands of times a second; nobody reads so fast, and each line
costs both ends time that the operation itself could use. So of one phase's progress a line goes out
every ``EVERY`` seconds, the latest, and the last one before whatever comes behind it.
"""

from collections import deque
from typing import Final

import trio

from node.messages import Event, Failure, Message, Progress, Result

EVERY: Final = 0.1
"""Seconds between two lines of progress of one phase: a bar is not drawn anew more often."""
MAX_WAITING: Final = 256
"""Events that wait for a slow reader; more are dropped, an end never is."""


class Outbox:
    """What one reader is to be told. Touched by trio's thread alone."""

    def __init__(self) -> None:
        self._waiting: deque[Message] = deque()
        self._ended = False
        self._changed = trio.Event()
        self._phase = ""  # of the progress that went out last
        self._due = 0.0  # when the next one of that phase may

    def put(self, event: Event) -> None:
        """Take an event; progress replaces what waits last, if that is of its phase."""
        last = self._waiting[-1] if self._waiting else None
        if isinstance(event, Progress) and isinstance(last, Progress) and event.phase == last.phase:
            self._waiting[-1] = event  # and who waits for it waits on
        elif len(self._waiting) < MAX_WAITING:
            self._add(event)

    def end(self, message: Result | Failure) -> None:
        """Take the last message."""
        self._ended = True
        self._add(message)

    async def take(self) -> Message | None:
        """Return the next message when it is time for it; None after the last."""
        while True:
            if self._resting():
                with trio.move_on_at(self._due):
                    await self._changed.wait()
            elif self._waiting:
                return self._sent(self._waiting.popleft())
            elif self._ended:
                await trio.lowlevel.checkpoint()
                return None
            else:
                await self._changed.wait()

    def _resting(self) -> bool:
        """Whether there is nothing but progress for which it is too early."""
        return (
            len(self._waiting) == 1
            and isinstance(first := self._waiting[0], Progress)
            and first.phase == self._phase
            and trio.current_time() < self._due
        )

    def _sent(self, message: Message) -> Message:
        if isinstance(message, Progress):
            self._phase, self._due = message.phase, trio.current_time() + EVERY
        return message

    def _add(self, message: Message) -> None:
        self._waiting.append(message)
        self._changed.set()
        self._changed = trio.Event()
