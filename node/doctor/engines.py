"""What can run models here."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from node.config import Config
from node.doctor.finding import Finding
from node.engine.engines import ENGINES, Engine, has_gpu

_MODULES: Final = Path("/sys/kernel/security/lsm")
"""Which security modules Linux runs, as words with commas; not everywhere is it readable."""


def look_at_engines(config: Config, engines: Sequence[Engine] = ENGINES) -> Iterator[Finding]:
    """Say which engines are installed, and what the others need."""
    lacks = {one.name: one.missing() for one in engines}
    there = [name for name, missing in lacks.items() if not missing]
    gpu = "There is a GPU." if has_gpu() else "There is no GPU that engines use."
    wanted = config.serve.engine
    if wanted != "auto" and wanted not in there:
        text = f"serve.engine is {wanted}, which needs {lacks.get(wanted) or 'to be installed'}."
        yield Finding("engines", "problem", text, "allod config unset serve.engine")
    elif there:
        yield Finding("engines", "ok", f"Models run by {', '.join(there)}. {gpu}")
    else:
        text = "No engine is installed: models are kept and shared, and not answered for."
        yield Finding("engines", "note", text, "pip install 'allod[serve]'")
    if there and _without_landlock():
        text = "This kernel does not run landlock, which keeps engines from reading other files."
        yield Finding(
            "confinement", "warning", text, "Add landlock to the kernel's lsm= parameter."
        )


def _without_landlock() -> bool:
    try:
        return "landlock" not in _MODULES.read_text().strip().split(",")
    except OSError:
        return False
