# SPDX-License-Identifier: Apache-2.0
"""The daemon's explainer: loaded when somebody first asks, for most daemons are never asked."""

from __future__ import annotations

from typing import Final

from assent.closing import Closing
from assent.dataplane.explain import Explainer, Explanation
from assent.dataplane.gate import Gate
from assent.errors import InvalidArgument

DATA_MAX: Final = 1 << 16
"""Bytes of one frame."""
FRAMES_MAX: Final = 10_000
"""Frames of one call."""


class Examiner(Closing):
    """Explains frames by the daemon's gate. Use it as a context manager.

    Args:
        gate: Whose maps are asked; it must outlive this.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._explainer: Explainer | None = None

    def explain(self, data: bytes, original_len: int) -> Explanation:
        """Explains one frame; see `Explainer.explain`.

        Raises:
            InvalidArgument: More than 64 KiB are given, or more than the frame has.
        """
        if len(data) > DATA_MAX:
            raise InvalidArgument("data", f"takes {DATA_MAX} bytes, got {len(data)}")
        if self._explainer is None:
            self._explainer = Explainer(self._gate)
        return self._explainer.explain(data, original_len)

    def close(self) -> None:
        """Lets go of the explaining program, if it was needed. Idempotent."""
        explainer, self._explainer = self._explainer, None
        if explainer is not None:
            explainer.close()
