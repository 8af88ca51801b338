"""Samples of metrics, and Prometheus's text format 0.0.4 for them. Pure."""

from typing import Final

from node.metrics.table import METRICS

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_ESCAPES: Final = str.maketrans({"\\": r"\\", '"': r"\"", "\n": r"\n"})


class Scrape:
    """The samples of one moment."""

    def __init__(self) -> None:
        self._samples: dict[str, dict[tuple[str, ...], float]] = {}

    def add(self, name: str, value: float | None, *labels: str) -> None:
        """Add a value; to what there is with the same labels. None: there is no such number now.

        KeyError for a name that the table does not have, ValueError for other labels than it says.
        """
        if len(METRICS[name].labels) != len(labels):
            raise ValueError(f"{name} has the labels {METRICS[name].labels}, but {labels} came.")
        if value is not None:
            mine = self._samples.setdefault(name, {})
            mine[labels] = mine.get(labels, 0) + value

    def write(self) -> bytes:
        """Write all of them, in the order of the table."""
        lines: list[str] = []
        for metric in METRICS.values():
            samples = self._samples.get(metric.name)
            if not samples:
                continue
            lines.append(f"# HELP {metric.name} {metric.help}")
            lines.append(f"# TYPE {metric.name} {metric.kind}")
            for labels, value in sorted(samples.items()):
                pairs = ",".join(
                    f'{label}="{text.translate(_ESCAPES)}"'
                    for label, text in zip(metric.labels, labels, strict=True)
                )
                shown = f"{{{pairs}}}" if pairs else ""
                lines.append(f"{metric.name}{shown} {_number(value)}")
        return ("\n".join(lines) + "\n").encode()


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else repr(float(value))
