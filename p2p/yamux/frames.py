"""yamux on the wire: the header, what its fields may say, and the numbers of the specification.

Pure words and numbers, no behaviour.  Source: the specification of hashicorp/yamux, with the
larger windows that libp2p's implementations agree on.
"""

from enum import IntEnum, IntFlag
from struct import Struct

Data = bytes | bytearray | memoryview

HEADER = Struct("!BBHII")  # version, type, flags, stream, length
HEADER_SIZE = HEADER.size

INITIAL_WINDOW = 256 << 10  # fixed by the specification, for both directions
MAX_WINDOW = 16 << 20  # what go-yamux, js and we let one stream grow to
MAX_UINT32 = (1 << 32) - 1


class Type(IntEnum):
    """What a frame is (specification, "Type field")."""

    DATA = 0
    WINDOW = 1
    PING = 2
    GO_AWAY = 3


class Flag(IntFlag):
    """What a frame says about its stream (specification, "Flag field")."""

    SYN = 1
    ACK = 2
    FIN = 4
    RST = 8


class Code(IntEnum):
    """Why a connection ends (specification, "Go Away")."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
