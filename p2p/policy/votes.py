"""Counting how many different ones have spoken, so that nobody is counted twice.

A threshold asks for several who know nothing of each other. So one key under two names is one, and
one publisher with three keys is one, also under three names: what is counted is the largest number
of pairs of a party and a key in which neither comes twice. Keys are compared by their bytes.

Pure.
"""

from collections.abc import Mapping, Sequence

from p2p.keys import PublicKey
from p2p.policy.model import Party


def count_votes(
    parties: Sequence[Party],
    keys: Mapping[str, frozenset[PublicKey]],
    spoke: Sequence[PublicKey],
) -> tuple[Party, ...]:
    """Return those of ``parties`` who have spoken, each by a key of its own.

    ``keys``: by publisher id, the keys that are known to be its.
    """
    parties = list({party.voice: party for party in reversed(parties)}.values())[::-1]
    voices = dict.fromkeys(key.raw for key in spoke)
    may = {
        one: [raw for raw in voices if raw in _of(party, keys)] for one, party in enumerate(parties)
    }
    taken: dict[bytes, int] = {}

    def place(one: int, tried: set[bytes]) -> bool:
        """Find a key for a party, others making room where they can: an augmenting path."""
        for raw in may[one]:
            if raw not in tried:
                tried.add(raw)
                if raw not in taken or place(taken[raw], tried):
                    taken[raw] = one
                    return True
        return False

    for one in may:
        place(one, set())
    return tuple(parties[one] for one in sorted(taken.values()))


def _of(party: Party, keys: Mapping[str, frozenset[PublicKey]]) -> frozenset[bytes]:
    """Return the bytes of the keys that speak for somebody."""
    if party.key is not None:
        return frozenset({party.key.raw})
    return frozenset(key.raw for key in keys.get(party.publisher or "", ()))
