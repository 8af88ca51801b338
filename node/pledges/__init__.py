"""Pledges: this node helps to keep so many healthy copies of a release, or of all of a publisher's.

    standing    pure: who has a healthy copy, whose turn it is to make one more, who may let go
    book        what was pledged, what was taken under which pledge, how much of its budget that is
    challenge   a question that only who has the bytes can answer: some leaf, chosen by chance
    watch       what is known of one release, and a look at all who say that they have it
    keeper      all of a node's pledges, looked after: fetches what lacks, lets go what is too much
    verbs       pledge, pledge list, pledge rm, and how many copies there are

Nodes that pledged the same agree on nothing with each other. Each looks for itself, and acts by an
order that all compute alike (docs/adr/0013-keeping-copies.md).
"""

from node.pledges.book import Book, Pledge, Taken
from node.pledges.standing import Times

__all__ = ["Book", "Pledge", "Taken", "Times"]
