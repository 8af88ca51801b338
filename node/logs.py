"""How the node writes down what happens: for people, or one JSON object a line for programs.

    {"time": "2026-11-26T10:00:00.123Z", "level": "warning", "logger": "p2p.host", "message": ...}

``trace`` follows where an error brought one. Secrets, prompts and answers are never given to a
logger, so there is nothing here that would have to find and hide them.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Any

TEXT = "%(asctime)s %(levelname)s %(name)s: %(message)s"


def log_layout(format: str) -> logging.Formatter:
    """Return the layout of ``log.format``: text or json."""
    return JsonLines() if format == "json" else logging.Formatter(TEXT)


class JsonLines(logging.Formatter):
    """One JSON object a line, whatever is in the message."""

    def format(self, record: logging.LogRecord) -> str:
        """Write one record."""
        time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")
        shown: dict[str, Any] = {
            "time": time.replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            shown["trace"] = self.formatException(record.exc_info)
        return json.dumps(shown)
