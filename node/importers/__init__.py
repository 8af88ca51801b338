"""Where releases come from: folders on this machine, and what their files say about them.

folder    walks a folder: which files, and none that may not be published
suffixes  what the end of a file's name tells
licenses  SPDX names for what cards call licences
card      reads the front matter of a model's or a dataset's card
parquet   the columns in a Parquet file's footer
columns   which columns a table has
croissant describes a dataset
hub       a repository as huggingface_hub has it, with hub_errors for what goes wrong there
parts     states licence, lineage and consent, from the card and the publisher's words
"""
