"""Headers of safetensors and GGUF files: which tensor lies where. The bytes may be anyone's.

Loaders trust these headers more than they should: some take duplicate names, run for minutes, or
use gigabytes on a file that was made for it.
So headers are read here first, with bounds on everything, and a file passes only when every tensor
lies inside it and none overlaps another.
What a dtype means is the loader's business: of an unknown one the span alone is checked, so that
new ones need no change here and the cuts that chunking.py makes stay the same for ever.

    safetensors.py   8 bytes: length n; n bytes: JSON; then tensors without a gap to the end
    gguf.py          magic, version, counts; metadata; tensor table; padding; tensors, aligned

Pure: reads the file through the function that it is given, a few large pieces of it.
"""

from p2p.errors import VerificationFailed
from p2p.tensors.gguf import MAX_GGUF_HEADER, read_gguf
from p2p.tensors.layout import MAX_METADATA, MAX_TENSORS, ReadAt, Tensor, TensorFile
from p2p.tensors.safetensors import MAX_SAFETENSORS_HEADER, read_safetensors, slice_safetensors

__all__ = [
    "MAX_GGUF_HEADER",
    "MAX_METADATA",
    "MAX_SAFETENSORS_HEADER",
    "MAX_TENSORS",
    "ReadAt",
    "Tensor",
    "TensorFile",
    "read_gguf",
    "read_safetensors",
    "slice_safetensors",
    "sniff",
]


def sniff(path_name: str, read_at: ReadAt, size: int) -> TensorFile | None:
    """Read the header if the file is safetensors (told by name) or GGUF (told by its magic).

    ``None`` if it is neither, or says that it is and is malformed.
    """
    try:
        if path_name.lower().endswith((".safetensors", ".sft")):
            return read_safetensors(read_at, size)
        if read_at(0, 4) == b"GGUF":
            return read_gguf(read_at, size)
    except VerificationFailed:
        pass
    return None
