"""One machine's use of the network: its store, its verbs, its doors, its command line.

    store/              plain files, kept in an order that survives a power cut
    publish, fetch      the verbs; each reads top to bottom
    crew, transfer      the sources of one fetch, and the workers that read from them
    api/                what other nodes see, and the control API on loopback
    node, daemon        the parts joined; a node that keeps running
    operations, cli/    everything that a node can be asked to do, and how people ask

It imports ``p2p`` and nothing imports it; docs/explanation/architecture.md has the whole order.
"""
