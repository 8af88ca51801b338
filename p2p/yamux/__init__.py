"""yamux as a pure state machine: bytes in, events out; calls in, bytes out.

What it knows: the frames of the hashicorp/yamux specification as libp2p uses it
(``/yamux/1.0.0``), the windows of both directions, and which frame goes next.  What it must not
know: sockets, encryption, tasks, the clock.  Time comes in as ``now`` (seconds, monotonic).

The rules that it keeps:

- Receiving never has to write.  What is owed to the peer (window updates, answers to pings,
  acknowledgements) is noted, and leaves with the next `gather`; a peer that makes us owe too much
  has broken the protocol.  A reader that waits for a writer that waits for the peer's reader is
  how two ends deadlock.
- A stream never holds more unread bytes than the window that was granted; a peer that passes it,
  or breaks any other rule, gets one `PeerFault` and a GO_AWAY, and nothing more is read from it.
- SYN, ACK, FIN and RST travel in window updates of their own.  Every implementation understands
  that, while flags on data frames are handled differently by some.
- Frames for streams that are no more are skipped: they crossed our RST or FIN on the way.
"""

from p2p.yamux.frames import Code, Data
from p2p.yamux.machine import DEFAULT_LIMITS, Event, Kind, Limits, Machine
from p2p.yamux.stream import Stream

__all__ = [
    "DEFAULT_LIMITS",
    "Code",
    "Data",
    "Event",
    "Kind",
    "Limits",
    "Machine",
    "Stream",
]
