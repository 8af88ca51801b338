"""What the end of a file's name tells: its media type, its format, whether it holds weights.

A table of our own and not Python's mimetypes, which reads what the system has: a release says the
same wherever it is published.

Pure. Specification: the IANA registry of media types, and common use where it has none.
"""

from collections.abc import Mapping
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

DATA_FORMATS: Final[Mapping[str, tuple[str, ...]]] = {
    "csv": ("text/csv",),
    "tsv": ("text/tab-separated-values",),
    "jsonl": ("application/jsonl", "application/jsonlines"),
    "parquet": ("application/vnd.apache.parquet", "application/x-parquet"),
    "arrow": ("application/vnd.apache.arrow.file",),
    "json": ("application/json",),
    "txt": ("text/plain",),
    "jpg": ("image/jpeg",),
    "png": ("image/png",),
    "gif": ("image/gif",),
    "webp": ("image/webp",),
    "tif": ("image/tiff",),
    "mp3": ("audio/mpeg",),
    "wav": ("audio/wav",),
    "flac": ("audio/flac",),
    "ogg": ("audio/ogg",),
    "mp4": ("video/mp4",),
    "tar": ("application/x-tar",),
    "zip": ("application/zip",),
    "gz": ("application/gzip",),
    "zst": ("application/zstd",),
}
"""Formats of data by their common suffix, with their media types: ours first, then loaders'."""

_SAME: Final = {"ndjson": "jsonl", "jpeg": "jpg", "tiff": "tif", "feather": "arrow", "tgz": "gz"}


def suffix(path: str) -> str:
    """Return the last suffix of a path, in lower case and with its dot."""
    return ending(path).lower()


def ending(path: str) -> str:
    """Return the last suffix of a path as it is written; a million paths take a second."""
    stem, _, end = path.rpartition("/")[2].rpartition(".")
    return f".{end}" if stem and end else ""


def media_type(path: str) -> str | None:
    """Return the media type that a file's name tells, if there is a common one."""
    return MEDIA_TYPES.get(suffix(path))


def data_format(path: str) -> str:
    """Return the format of data that a file's name tells, a key of the table above, or nothing."""
    end = suffix(path).removeprefix(".")
    end = _SAME.get(end, end)
    return end if end in DATA_FORMATS else ""
