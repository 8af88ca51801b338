"""The lane: a direct, fast way for payload between two peers that know each other already.

Peers meet over libp2p. There one asks ``GET /allod/v1/lane`` and gets an offer: addresses, the
hash of a certificate, and tickets. It opens a TCP connection, sees TLS 1.3 with exactly that
certificate, shows a ticket, and asks the same HTTP questions as on a stream.
Payload is moved by threads with blocking sockets, which is what Python is fast at; trio's thread
only decides.

- ``offer``: what is agreed on, and the tickets (pure)
- ``tls``: the certificate of this run, and both contexts
- ``wire``: a blocking connection whose waits are bounded and can be ended from outside
- ``client``: asking, and opening a lane
- ``server``: answering

A lane is never needed: where there is none, a libp2p stream carries the same bytes.
"""

from p2p.lane.client import BUFFER, OPEN_TIME, Lane, open_lane
from p2p.lane.offer import PATH, Encryption, Offer, Tickets
from p2p.lane.server import Door, LaneLimits, LaneServer, LaneSettings, open_lane_server

__all__ = [
    "BUFFER",
    "OPEN_TIME",
    "PATH",
    "Door",
    "Encryption",
    "Lane",
    "LaneLimits",
    "LaneServer",
    "LaneSettings",
    "Offer",
    "Tickets",
    "open_lane",
    "open_lane_server",
]
