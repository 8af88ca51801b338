"""Reading files of releases that were not fetched: verified bytes, as they are asked for.

    pull          one file on its way: the leaves that somebody reads, from many sources
    opened        an open release: its verdict, its files, the sources that it comes from
    reader        from what a program names to an open release, kept while it is read

Who reads a range waits for the leaves that hold it and for no others; who reads a file from its
beginning gets it in order, while it comes from as many sources as there are. Several readers of a
file share one pull. What has come stays in the store as any unfinished file does, so that nothing
is moved twice; what nobody pinned is the garbage collector's.
"""

from node.reading.opened import OpenRelease
from node.reading.reader import Reader, open_reader

__all__ = ["OpenRelease", "Reader", "open_reader"]
