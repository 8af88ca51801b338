"""What the end of a file's name tells: its media type, and whether it holds a model's weights.

A table of our own and not Python's mimetypes, which reads what the system has: a release says the
same wherever it is published.

Pure. Specification: the IANA registry of media types, and common use where it has none.
"""

from pathlib import PurePosixPath
from typing import Final

WEIGHTS: Final = frozenset(
    "." + name
    for name in (
        "bin", "ckpt", "ggml", "gguf", "h5", "keras", "mlmodel", "msgpack", "onnx", "pt", "pth",
        "safetensors", "tflite",
    )
)  # fmt: skip
"""Suffixes of files that hold weights."""

MEDIA_TYPES: Final = {
    ".arrow": "application/vnd.apache.arrow.file",
    ".csv": "text/csv",
    ".flac": "audio/flac",
    ".gif": "image/gif",
    ".gz": "application/gzip",
    ".html": "text/html",
    ".jpeg": "image/jpeg",
    ".jpg": "image/jpeg",
    ".json": "application/json",
    ".jsonl": "application/jsonl",
    ".md": "text/markdown",
    ".mp3": "audio/mpeg",
    ".mp4": "video/mp4",
    ".ogg": "audio/ogg",
    ".parquet": "application/vnd.apache.parquet",
    ".pdf": "application/pdf",
    ".png": "image/png",
    ".svg": "image/svg+xml",
    ".tar": "application/x-tar",
    ".tsv": "text/tab-separated-values",
    ".txt": "text/plain",
    ".wav": "audio/wav",
    ".webp": "image/webp",
    ".xml": "application/xml",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".zip": "application/zip",
    ".zst": "application/zstd",
}


def suffix(path: str) -> str:
    """Return the last suffix of a path, in lower case and with its dot."""
    return PurePosixPath(path).suffix.lower()


def media_type(path: str) -> str | None:
    """Return the media type that a file's name tells, if there is a common one."""
    return MEDIA_TYPES.get(suffix(path))
