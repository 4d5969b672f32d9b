# SPDX-License-Identifier: Apache-2.0
"""What has an owner and is closed when its block is left."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType
from typing import Self


class Closing(ABC):
    """A context manager that is its own value, and is closed on the way out."""

    @abstractmethod
    def close(self) -> None:
        """Gives back what it owns. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
