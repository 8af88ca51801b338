"""Releases carried in files: what ``allod bundle`` does with the format of p2p/parcel.

sending      export, the verb; writing: the bytes
receiving    import, the verb; intake: the files
"""
