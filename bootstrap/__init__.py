"""A bootstrap server: a DHT node that everybody knows the address of, with no store.

``python -m bootstrap`` runs it; README.md says how, docs/how-to/run-a-bootstrap.md says why.
It knows the network (``p2p``) and borrows the node's keyring; it must not know files or releases.
"""
