# SPDX-License-Identifier: Apache-2.0
"""One line a record: key=value for people, JSON for machines. What is logged is public."""

from __future__ import annotations

import json
import logging
import time
from typing import Final

from assent.service.config import LogFormat, LogLevel

_OWN: Final = "assent"
_BUILTIN: Final = frozenset(
    vars(logging.LogRecord("", 0, "", 0, "", None, None)) | {"message": "", "asctime": ""}
)


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """A record as ordered fields: time (UTC), level, logger, event, then what `extra` named."""
    moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    fields: dict[str, object] = {
        "time": f"{moment}.{int(record.msecs):03d}Z",
        "level": record.levelname.lower(),
        "logger": record.name,
        "event": record.getMessage(),
    }
    fields.update({key: value for key, value in vars(record).items() if key not in _BUILTIN})
    if record.exc_info:
        fields["traceback"] = logging.Formatter().formatException(record.exc_info)
    return fields


class TextFormatter(logging.Formatter):
    """Writes key=value; a value that could be misread is quoted, line breaks included."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats one record."""
        return " ".join(f"{key}={_quoted(value)}" for key, value in fields_of(record).items())


class JsonFormatter(logging.Formatter):
    """Writes one JSON object."""

    def format(self, record: logging.LogRecord) -> str:
        """Formats one record."""
        return json.dumps(fields_of(record), default=str, ensure_ascii=False)


def configure(level: LogLevel, style: LogFormat) -> None:
    """Sends all records of the process to stderr in one format.

    Libraries speak from warnings on, however much we say ourselves.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else TextFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    own = logging.getLevelNamesMapping()[level.upper()]
    root.setLevel(max(own, logging.WARNING))
    logging.getLogger(_OWN).setLevel(own)


def _quoted(value: object) -> str:
    text = str(value)
    plain = text and all(char.isprintable() and char not in ' "=\\' for char in text)
    return text if plain else json.dumps(text, ensure_ascii=False)
