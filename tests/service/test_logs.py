# SPDX-License-Identifier: Apache-2.0
"""service/logs.py: who is heard, and in what form."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator

import pytest

from assent.service import logs
from assent.service.config import LogLevel


@pytest.fixture(autouse=True)
def _restored() -> Iterator[None]:
    """What is set for the whole process is taken back."""
    root, own = logging.getLogger(), logging.getLogger("assent")
    before = root.handlers[:], root.level, own.level
    try:
        yield
    finally:
        root.handlers[:], root.level, own.level = before
        for logger in (root, own):
            logger.setLevel(logger.level)  # what loggers remember of it is void


@pytest.mark.parametrize(
    ("level", "ours", "theirs"),
    [
        ("debug", ["debug", "info", "warning", "error"], ["warning", "error"]),
        ("info", ["info", "warning", "error"], ["warning", "error"]),
        ("warning", ["warning", "error"], ["warning", "error"]),
        ("error", ["error"], ["error"]),
    ],
)
def test_libraries_speak_from_warnings_on(
    level: LogLevel, ours: list[str], theirs: list[str], capsys: pytest.CaptureFixture[str]
):
    logs.configure(level, "json")
    names = {"assent.service.daemon": ours, "pyroute2.netlink.core": theirs, "grpc._cython": theirs}
    for name in names:
        for number in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
            logging.getLogger(name).log(number, "something")
    lines = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    for name, wanted in names.items():
        assert [line["level"] for line in lines if line["logger"] == name] == wanted


def test_a_value_that_could_be_misread_is_quoted(capsys: pytest.CaptureFixture[str]):
    logs.configure("info", "text")
    logging.getLogger("assent.service").info("two words", extra={"cell": "a\nb", "count": 3})
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith('level=info logger=assent.service event="two words" cell="a\\nb" count=3')
