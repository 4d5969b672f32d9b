"""The errors that every layer shares.

There are two families, and they never mix. A `RemoteError` says that a peer sent something wrong:
it is counted and the frame is dropped. A `LocalError` says that the caller asked for something that
cannot be: it goes back to the caller, and the API layer maps its kind to a gRPC status in one
place. Anything else that is raised is a bug.

No message of any of them ever contains a secret.
"""

# The kinds are named after the gRPC codes that they become.
# ruff: noqa: N818


class AssentError(Exception):
    """Base of everything that this package raises on purpose."""


class LocalError(AssentError):
    """The caller misused an interface, or asked for what the node cannot give."""


class RemoteError(AssentError):
    """A peer sent bytes that are malformed, unauthentic or out of place."""


class InvalidArgument(LocalError):
    """A value that can never be right, whatever state the node is in.

    Attributes:
        field: The name of the offending field, as the caller knows it.
        problem: What is wrong with it, without echoing secrets.
    """

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field = field
        self.problem = problem


class AlreadyExists(LocalError):
    """What was to be created is there already."""


class NotFound(LocalError):
    """What was asked for is not there."""


class ResourceExhausted(LocalError):
    """A bound of the node would be passed."""


class FailedPrecondition(LocalError):
    """The request is well formed, but the state of the node does not allow it now."""


class Unavailable(LocalError):
    """Something that the request needs cannot be reached at the moment; trying again may help."""
