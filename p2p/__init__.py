"""What two strangers must agree on: addresses, formats, signatures, and the protocol between nodes.

    names of bytes    cid, chunking, dag, directory, car: UnixFS files and folders under strict CIDs
    what was said     manifest, entries, terms, envelope, keys: signed statements of releases
    what people type  references, paths, address
    decisions         schedule, limits, routing, rates: pure, with time passed in
    sessions          noise, yamux, channel, mux; lane: direct TLS connections
    the network       http, host, discovery, sources

It imports nothing of ``node``; docs/explanation/architecture.md has the order of its modules.
Modules are imported by name: ``from p2p.cid import CID``.
"""
