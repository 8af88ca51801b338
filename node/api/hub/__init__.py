"""The node as an HF_ENDPOINT: what Hugging Face's clients ask of the Hub.

    asks          what a client asks for, read off the path as it was sent
    problems      errors in the Hub's words
    shapes        the JSON of the Hub's answers
    trees         which entries of a release are asked about
    files         HEAD and GET of a file
    routes        which path is which

Only files are moved, and only those that are asked for. Whoever sends a token of the Hub's along
sends it in vain: no header of a request is read but Range, and none is written down.
"""

from node.api.hub.routes import hub_routes

__all__ = ["hub_routes"]
