"""Where releases come from: folders on this machine, and what their files say about them.

folder    walks a folder: which files, and none that may not be published
card      reads the model card's front matter; states licence, lineage and consent
licenses  SPDX names for what cards call licences
suffixes  what the end of a file's name tells
"""
