"""From samples to rows, ratios and Markdown.

A ratio is the median over the rounds of the ratio within a round: what slows the machine down for
a minute slows both sides of it down.
"""

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

Json = dict[str, Any]

TARGETS = {
    "f1g/tls/libtorrent-v2": 3.5,
    "f1g/tls/libtorrent-v1-obfuscated": 4.0,
    "f1g/tls/iroh": 5.0,
    "f1g/tls/huggingface-hub": 2.0,
    "f1g/tls/curl-https": 0.9,
    "f1g/plain/libtorrent-v1": 4.5,
    "f1g/plain/curl-http": 1.2,
    "f1g/stream/py-libp2p": 4.0,
    "f1g/stream/libtorrent-v1": 1.2,
    "f1g/tls-4/tls": 0.95,
    "modeldir/tls/f1g": 0.85,
    "publish/in-place/iroh": 1.0,
    "publish/in-place/blake3": 0.8,
}
"""What Allod wants to reach: times the rate of the other, at least."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One measurement of one program in one round; MB are 10**6 bytes, None: nothing to say."""

    mb_s: float
    seconds: float
    cpu_send: float | None = None
    cpu_receive: float | None = None
    mb_send: float | None = None
    """Peak memory of a sending process beyond what it had when idle."""
    mb_receive: float | None = None


@dataclass(frozen=True, slots=True)
class KillSample:
    """One fetch that was killed at half and begun again."""

    again_mb: float
    """Bytes on the wire in both runs beyond those of a fetch that nobody kills."""
    flow_seconds: float
    """From the second request to new bytes."""


@dataclass
class Results:
    """All that was measured, by work and name."""

    samples: dict[tuple[str, str], list[Sample]] = field(default_factory=lambda: defaultdict(list))
    kills: dict[tuple[str, str], list[KillSample]] = field(
        default_factory=lambda: defaultdict(list)
    )
    small: dict[str, float] = field(default_factory=dict)
    """Medians of the small things, by name."""
    skipped: dict[str, str] = field(default_factory=dict)

    def rows(self) -> list[Json]:
        """One object for each program and work, with medians and the single rates."""
        rows: list[Json] = []
        for (work, name), samples in self.samples.items():
            rates = [round(sample.mb_s, 1) for sample in samples]
            rows.append({"work": work, "name": name, **_medians(samples), "rounds": rates})
        for (work, name), kills in self.kills.items():
            again = [round(kill.again_mb, 1) for kill in kills]
            rows.append({"work": f"{work}-kill", "name": name, **_medians(kills), "rounds": again})
        rows += [
            {"work": "small", "name": name, "value": round(value, 4)}
            for name, value in self.small.items()
        ]
        return rows

    def ratios(self, ours: Iterable[str]) -> dict[str, float]:
        """WORK/ALLOD-MODE/OTHER: how many times the rate of the other."""
        found: dict[str, float] = {}
        modes = set(ours)
        for (work, name), samples in self.samples.items():
            if name not in modes:
                continue
            for (where, other), theirs in self.samples.items():
                if where == work and other != name:
                    found[f"{work}/{name}/{other}"] = _ratio(samples, theirs)
            if work == "modeldir" and self.samples.get(("f1g", name)):
                found[f"modeldir/{name}/f1g"] = _ratio(samples, self.samples["f1g", name])
        return found


def _ratio(ours: Sequence[Sample], theirs: Sequence[Sample]) -> float:
    pairs = zip(ours, theirs, strict=False)
    return round(statistics.median(one.mb_s / other.mb_s for one, other in pairs), 3)


def _medians(samples: Sequence[Sample] | Sequence[KillSample]) -> Json:
    columns: dict[str, list[float]] = defaultdict(list)
    for sample in samples:
        for key, value in asdict(sample).items():
            if value is not None:
                columns[key].append(value)
    return {key: round(statistics.median(values), 3) for key, values in columns.items()}


# -- Markdown

FETCH_HEADS = ("MB/s", "seconds", "CPU s, sender", "receiver", "MB, sender", "receiver", "rounds")
FETCH_KEYS = ("mb_s", "seconds", "cpu_send", "cpu_receive", "mb_send", "mb_receive")


def markdown(answer: Json) -> str:
    """The tables of a run, whole."""
    machine, rows, ratios = answer["machine"], answer["rows"], answer["ratios"]
    parts = [f"Measured with `{answer['command']}`.\n"]
    parts.append("\n".join(f"- {key}: {value}" for key, value in machine.items()) + "\n")
    for work in ("f1g", "modeldir", "many"):
        of_work = [row for row in rows if row["work"] == work]
        parts.append(_table(f"fetch {work}", FETCH_HEADS, FETCH_KEYS, of_work))
    of_publish = [row for row in rows if row["work"] == "publish"]
    parts.append(
        _table("publish f1g", ("seconds", "MB/s", "rounds"), ("seconds", "mb_s"), of_publish)
    )
    of_kill = [row for row in rows if row["work"] == "f1g-kill"]
    heads = ("MB again", "seconds to new bytes", "rounds")
    parts.append(_table("f1g, killed at half", heads, ("again_mb", "flow_seconds"), of_kill))
    of_small = [row for row in rows if row["work"] == "small"]
    parts.append(_table("small", ("value",), ("value",), of_small))
    goals = [
        f"| `{key}` | {least:g} | {ratios[key]:.2f} | {'yes' if ratios[key] >= least else 'no'} |"
        for key, least in TARGETS.items()
        if key in ratios
    ]
    if goals:
        parts.append("| ratio | at least | measured | reached |\n| --- | --- | --- | --- |")
        parts[-1] += "\n" + "\n".join(goals) + "\n"
    if answer["skipped"]:
        parts.append("Left out:\n")
        parts.append("\n".join(f"- {name}: {why}" for name, why in answer["skipped"].items()))
    return "\n".join(part for part in parts if part)


def _table(title: str, heads: Sequence[str], keys: Sequence[str], rows: Sequence[Json]) -> str:
    if not rows:
        return ""
    lines = [f"| {title} | {' | '.join(heads)} |", f"| --- |{' --- |' * len(heads)}"]
    for row in rows:
        cells = [_number(row.get(key)) for key in keys]
        if heads[-1] == "rounds":
            cells.append(str(len(row["rounds"])))
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return (
        f"{value:.0f}"
        if abs(value) >= 100
        else f"{value:.2f}"
        if abs(value) < 10
        else f"{value:.1f}"
    )
