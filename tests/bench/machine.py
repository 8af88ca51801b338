"""What the numbers were measured on, and with what."""

import importlib.metadata
import os
import platform
import ssl
from contextlib import suppress
from pathlib import Path

import psutil

from tests.bench.rivals.curl import hasher_name
from tests.bench.rivals.web import server_name

PACKAGES = ("libtorrent", "iroh", "huggingface-hub", "libp2p", "blake3", "cryptography")


def describe(folder: Path) -> dict[str, str]:
    """The machine, by topic; ``folder`` is where the files lie."""
    versions = []
    for name in PACKAGES:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions.append(f"{name} {importlib.metadata.version(name)}")
    return {
        "processor": f"{os.cpu_count()} x {_processor()}",
        "memory": f"{psutil.virtual_memory().total / 2**30:.0f} GiB",
        "system": f"{platform.system()} {platform.release()}, {_file_system(folder)}",
        "Python": f"{platform.python_version()}, {ssl.OPENSSL_VERSION}",
        "packages": ", ".join(versions),
        "web server": f"{server_name()}; hashed by {hasher_name()}",
        "load at the begin": f"{os.getloadavg()[0]:.1f}",
    }


def _processor() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.machine()


def _file_system(folder: Path) -> str:
    found = [
        part for part in psutil.disk_partitions(all=True) if folder.is_relative_to(part.mountpoint)
    ]
    return max(found, key=lambda part: len(part.mountpoint)).fstype if found else "?"
