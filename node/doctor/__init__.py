"""``allod doctor``: what is wrong with this node, or will be, each with the command that mends it.

    finding       what a check says
    machine       clock, memory, open files, versions of libraries
    disk          room, inodes, the file system and what it can
    files         who may read and write the node's files; the one check that mends, when asked to
    network       ports, reachability, the DHT, peers
    giving        to whom and when this node gives, and what is left of the month
    publishers    the keys of this machine's publishers, and how long what they say is good
    rules         config.toml, policy.toml and the deny lists
    store         the databases, unfinished and damaged files, the quota
    engines       what can run models here
    examination   all of them, whatever one of them meets

The checks look and ask nobody: no packet leaves the machine for them.
With a running node they run in it, and know its peers; without one they say what a disk can tell.
"""

from node.doctor.examination import examine
from node.doctor.finding import Finding, Level

__all__ = ["Finding", "Level", "examine"]
