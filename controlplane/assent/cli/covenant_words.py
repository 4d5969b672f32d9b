# SPDX-License-Identifier: Apache-2.0
"""What people say on the command line when they decide: reasons, questions, handles."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Final

import typer

from assent.errors import InvalidArgument

if TYPE_CHECKING:
    from assent.v1.covenants_pb2 import Question, RejectionReason

_UINT64_MAX: Final = (1 << 64) - 1
SEVERITIES: Final = ("incompatible", "insufficient", "unclear")
_WITH_SEVERITY = re.compile(rf"(.*?)\s*\(({'|'.join(SEVERITIES)})\)")

Handle = Annotated[
    int,
    typer.Argument(
        metavar="HANDLE", min=1, max=_UINT64_MAX, help="Its number in `assent covenant list`."
    ),
]


def reason(text: str) -> RejectionReason:
    """Reads `TERM: why` or `TERM (severity): why`; without one, the term is incompatible.

    Raises:
        InvalidArgument: It has no term, or does not say why.
    """
    from assent.v1.covenants_pb2 import RejectionReason

    term, why = _pair("--because", text, "TERM: why")
    match = _WITH_SEVERITY.fullmatch(term)
    term, severity = (match[1], match[2]) if match is not None else (term, SEVERITIES[0])
    if not term:
        raise InvalidArgument("--because", 'needs "TERM: why"')
    return RejectionReason(term_ref=term, rationale=why, severity=severity)


def question(text: str) -> Question:
    """Reads `TERM: what`.

    Raises:
        InvalidArgument: It has no term, or does not say what.
    """
    from assent.v1.covenants_pb2 import Question

    about, what = _pair("--ask", text, "TERM: what")
    return Question(about=about, specificity=what)


def split_pair(text: str, separator: str) -> tuple[str, str]:
    """What is before the first separator, and what is after it, without spaces around."""
    before, _, after = text.partition(separator)
    return before.strip(), after.strip()


def _pair(option: str, text: str, form: str) -> tuple[str, str]:
    before, after = split_pair(text, ":")
    if not before or not after:
        raise InvalidArgument(option, f'needs "{form}"')
    return before, after
