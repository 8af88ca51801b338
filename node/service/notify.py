"""What the node tells systemd that started it: that it serves, that it lives, that it ends.

The protocol of sd_notify(3): datagrams to a Unix socket that an environment variable names. Where
nobody asked for it, nothing is sent.
"""

import logging
import socket

import trio

log = logging.getLogger(__name__)


class Manager:
    """The service manager, or nobody."""

    def __init__(self, address: str, watchdog: float) -> None:
        """``address``: of its socket, empty for nobody; ``watchdog``: seconds, 0 for none."""
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._watchdog = watchdog

    def tell(self, *words: str) -> None:
        """Send what is to be known, such as READY=1; never blocks, never fails."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as one:
                one.setblocking(False)
                one.sendto("\n".join(words).encode(), self._address)
        except OSError as exc:  # the node is no worse for it
            log.debug("the service manager hears nothing: %s", exc)

    async def keep_alive(self) -> None:
        """Send a sign of life twice as often as it is wanted; returns where none is."""
        if not self._address or not self._watchdog:
            return
        while True:
            self.tell("WATCHDOG=1")
            await trio.sleep(self._watchdog / 2)
