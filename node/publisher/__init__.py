"""The publishers of this machine: their keys, what they say, and how that changes.

A publisher is a folder (shelf.py): up to three secret keys and the TUF metadata that they have
signed. ``Repository`` changes it; what this machine alone may not change goes round as a proposal.
"""

from node.publisher.changes import Applied, Waiting
from node.publisher.proposal import (
    MAX_PROPOSAL,
    Proposal,
    read_proposal,
    write_proposal,
)
from node.publisher.repository import Repository, RoleName, found

__all__ = [
    "MAX_PROPOSAL",
    "Applied",
    "Proposal",
    "Repository",
    "RoleName",
    "Waiting",
    "found",
    "read_proposal",
    "write_proposal",
]
