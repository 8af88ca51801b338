"""The steps that bring the index from any earlier shape to the present one.

Step n leads from ``user_version`` n to n + 1 and never changes once it is released.
The index can always be rebuilt, so a step may also just drop what it would be hard to convert: the
store fills an index of version 0 from what lies on disk.

Numbers that the columns hold: sizes in bytes, times in seconds since 1970, ``mtime_ns`` in ns; CIDs
in their binary form.
"""

from typing import Final

STEPS: Final[tuple[str, ...]] = (
    """
    CREATE TABLE marks (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;

    -- Whole files. No facts (NULL): nobody has hashed it since it may have changed.
    -- charged: what counts against the quota. shared: its bytes are also the owner's file.
    CREATE TABLE files (
        id INTEGER PRIMARY KEY,
        cid BLOB NOT NULL UNIQUE,
        size INTEGER NOT NULL,
        charged INTEGER NOT NULL,
        shared INTEGER NOT NULL,
        mtime_ns INTEGER,
        inode INTEGER
    );

    -- The leaves of whole files that have more than one, by the first 8 bytes of their digest.
    CREATE TABLE leaves (
        prefix INTEGER NOT NULL,
        file INTEGER NOT NULL REFERENCES files (id) ON DELETE CASCADE,
        leaf INTEGER NOT NULL,
        PRIMARY KEY (prefix, file, leaf)
    ) WITHOUT ROWID;
    CREATE INDEX leaves_of_file ON leaves (file);

    -- The nodes of the Outlines that lie on disk: which Outline holds which block.
    CREATE TABLE nodes (
        cid BLOB NOT NULL, root BLOB NOT NULL, PRIMARY KEY (cid, root)
    ) WITHOUT ROWID;
    CREATE INDEX nodes_of_root ON nodes (root);

    CREATE TABLE releases (
        id INTEGER PRIMARY KEY,
        manifest BLOB NOT NULL UNIQUE,
        publisher TEXT NOT NULL,
        name TEXT NOT NULL,
        version TEXT NOT NULL,
        kind TEXT NOT NULL,
        size INTEGER NOT NULL,
        license TEXT NOT NULL,
        root BLOB NOT NULL,
        listing BLOB,
        files INTEGER NOT NULL,
        pinned INTEGER NOT NULL,
        complete INTEGER NOT NULL,
        added REAL NOT NULL,
        petname TEXT
    );
    CREATE TABLE release_files (
        release INTEGER NOT NULL REFERENCES releases (id) ON DELETE CASCADE,
        path TEXT NOT NULL,
        cid BLOB NOT NULL,
        size INTEGER NOT NULL,
        PRIMARY KEY (release, path)
    ) WITHOUT ROWID;
    CREATE INDEX release_files_by_cid ON release_files (cid);

    -- The nodes of the releases' folders. They can be built again from the manifest.
    CREATE TABLE folders (
        cid BLOB NOT NULL,
        release INTEGER NOT NULL REFERENCES releases (id) ON DELETE CASCADE,
        block BLOB NOT NULL,
        PRIMARY KEY (cid, release)
    );
    CREATE INDEX folders_of_release ON folders (release);
    """,
    """
    -- SHA-256 of whole files, where somebody asked for it: a long time to find out again.
    CREATE TABLE sums (cid BLOB PRIMARY KEY, sha256 BLOB NOT NULL) WITHOUT ROWID;
    """,
    """
    -- What git calls the bytes of a file, which is what the Hub calls a small one.
    CREATE TABLE git_names (cid BLOB PRIMARY KEY, sha1 BLOB NOT NULL) WITHOUT ROWID;
    """,
)
