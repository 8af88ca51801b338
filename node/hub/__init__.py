"""What a release is to Hugging Face's clients, and what the Hub's repositories are to a node.

origin        where an imported release comes from; commits, and which files are large ones
repository    how a person names a repository, and a revision of it
choosing      which files of a repository an import takes
checking      whether what came is what the Hub has
importing     a repository becomes a release
resolving     from what clients say, org/repo and a revision, to an open release
sums          what clients call a file's bytes
cache         a release goes into the cache of Hugging Face's clients
"""
