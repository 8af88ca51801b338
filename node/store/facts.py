"""What is remembered of a file on disk in order to notice that somebody changed it.

A whole file of the store may share its bytes with a file of its owner (a hard link), and engines
open it by its name in a view, so it can change behind the store's back.
Before anything of it is served, its size, modification time and inode are compared with those at
the time when its hash was taken; if they differ, it is hashed again.

A change within the same tick of the file system's clock leaves all three as they were.
So facts that were taken too soon after a change are not believed: the next use hashes once more.
"""

import os
from dataclasses import dataclass
from typing import Final

FINE_TICK: Final = 50_000_000  # ns; the kernel's clock ticks every 1 to 10 ms
COARSE_TICK: Final = 2_000_000_000  # ns; FAT counts in steps of two seconds, ext3 and HFS+ of one


@dataclass(frozen=True, slots=True)
class Facts:
    """Size in bytes, modification time in ns, inode."""

    size: int
    mtime_ns: int
    inode: int

    @classmethod
    def of(cls, stat: os.stat_result) -> "Facts":
        """Take the facts from what stat() answered."""
        # SQLite's integers have a sign, inode numbers of some file systems use all 64 bits.
        return cls(stat.st_size, stat.st_mtime_ns, stat.st_ino & 0x7FFF_FFFF_FFFF_FFFF)

    def settled(self, now_ns: int) -> bool:
        """Say whether a change after ``now_ns`` would show in the modification time."""
        tick = FINE_TICK if self.mtime_ns % 1_000_000_000 else COARSE_TICK
        return self.mtime_ns + tick < now_ns
