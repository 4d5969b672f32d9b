# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between two ends of a flow."""

from __future__ import annotations

from assent.errors import AssentError, FailedPrecondition, LocalError


class FlowError(AssentError):
    """The flow cannot go on: a silent peer, a broken rule, or a frame that was tampered with."""


class EndedError(FlowError):
    """The peer has said that no message follows, or has left; what it sent before was read."""


class SessionOverError(FlowError):
    """The flow's session has ended, or another one has taken its place.

    What was receipted has arrived; of what was not, nobody can say.
    """


class RenewedError(SessionOverError):
    """Another session has taken the place of the flow's: it is to be opened anew."""


class PortError(FlowError):
    """The interface cannot be used any more; all flows through it stand still.

    Attributes:
        errno: the kernel's error number.
    """

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.errno = number


class ClosedError(FailedPrecondition):
    """This side has closed it."""


class WouldBlockError(LocalError):
    """There is no credit or no room in the window now; nothing was taken."""


class MessageTooLongError(LocalError):
    """A message does not fit: a frame, where a flow's messages must, or the room given for it."""
