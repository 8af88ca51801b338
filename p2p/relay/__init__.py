"""Reaching peers that nobody can dial: circuits through a relay, and holes punched from there.

Circuit relay v2 and DCUtR, as libp2p's specifications say, wire-compatible with the other
implementations. Above the host, below discovery; must not know CIDs, manifests or the store.

- ``messages``  what is said on the wire
- ``places``    pure: who has a place at this relay, and what each circuit may take
- ``service``   the relay: gives places, joins two streams into a circuit
- ``client``    keeps places at relays, dials and accepts through them
- ``circuit``   a stream through a relay in the shape of a socket
- ``observed``  where the relay sees us
- ``punch``     the attempt to do without the relay
- ``knock``     its sockets
- ``relaying``  all of it over one host: ``open_relaying``
"""
