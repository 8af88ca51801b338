"""The header of a weights file on disk, read by our own readers and no engine's."""

import os
from pathlib import Path
from typing import Literal

from p2p.errors import VerificationFailed
from p2p.tensors import TensorFile, read_gguf, read_safetensors


def read_header(file: Path, format: Literal["gguf", "safetensors"]) -> tuple[TensorFile, int]:
    """Return what the header of a file says, and the file's bytes.

    ``VerificationFailed``, with the file's name, where it is malformed.
    """
    fd = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        size = os.fstat(fd).st_size
        read = read_gguf if format == "gguf" else read_safetensors
        return read(lambda start, length: os.pread(fd, length, start), size), size
    except VerificationFailed as exc:
        raise VerificationFailed(f"{file.name}: {exc.message}", next=exc.next) from exc
    finally:
        os.close(fd)
