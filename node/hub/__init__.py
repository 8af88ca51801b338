"""What a release is to Hugging Face's clients, and what the Hub's repositories are to a node.

    origin        where an imported release comes from; commits, and which files are large ones
"""
