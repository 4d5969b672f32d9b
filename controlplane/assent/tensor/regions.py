# SPDX-License-Identifier: Apache-2.0
"""Memory that peers may write to, and arrays as the pieces of memory that they are.

An array is whatever has NumPy's interface: its `dtype`, `shape`, `strides`, views and items. NumPy
itself is not imported, so that who sends none needs none.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from assent.errors import AlreadyExists, InvalidArgument, NotFound
from assent.wire.control import Tensor
from assent.wire.control_tensor import item_size

SPANS_MAX: Final = 65_536
"""Pieces that a message is gathered from at most."""


class Array(Protocol):
    """A NumPy array, as far as it is needed here."""

    @property
    def dtype(self) -> Any:
        """Its elements' type."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its lengths."""

    @property
    def strides(self) -> tuple[int, ...]:
        """Bytes from one element to the next, in each dimension."""

    @property
    def flags(self) -> Any:
        """Whether it is contiguous, and may be written to."""

    def reshape(self, shape: int, /) -> Any:
        """The same elements in other dimensions."""

    def __getitem__(self, index: Any, /) -> Any: ...


@dataclass(frozen=True, slots=True)
class Region:
    """An array that a peer may write to.

    Attributes:
        name: As peers call it.
        dtype: Of its elements, as a tag names it: "<f4" and the like.
        shape: Its lengths.
        memory: All its bytes, in C order, writable.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    memory: memoryview = field(repr=False)

    def place(self, tensor: Tensor) -> memoryview:
        """Where the bytes that a peer announces belong.

        Raises:
            InvalidArgument: The peer takes the region for another one than it is.
        """
        if tensor.dtype != self.dtype:
            raise InvalidArgument("dtype", f"is {self.dtype} here, not {tensor.dtype}")
        if tensor.shape != self.shape:
            raise InvalidArgument("shape", f"is {self.shape} here, not {tensor.shape}")
        return self.memory[tensor.offset : tensor.offset + tensor.size]


class Regions:
    """The arrays that peers may write to, by name."""

    def __init__(self) -> None:
        self._regions: dict[str, Region] = {}

    def register(self, name: str, array: Array) -> Region:
        """Lets peers write to an array, until it is taken back.

        Args:
            name: 1 to 255 bytes; no control characters.
            array: Contiguous in C order, and writable. It is held as long as it is registered.

        Raises:
            AlreadyExists: Another one has this name.
            InvalidArgument: The name or the array does not serve.
        """
        if name in self._regions:
            raise AlreadyExists(f"region {name!r} is registered already")
        flags = array.flags
        if not flags.c_contiguous or not flags.writeable:
            raise InvalidArgument("array", "must be contiguous in C order, and writable")
        dtype, shape = dtype_of(array), tuple(array.shape)
        # Names and sizes that no tag can carry are refused now, not when a peer tries.
        Tensor(name, dtype, shape, 0, 0)
        region = Region(name, dtype, shape, memoryview(_bytes_of(array)))
        self._regions[name] = region
        return region

    def unregister(self, name: str) -> None:
        """Takes an array back: what peers send for it is refused from now on.

        Raises:
            NotFound: There is none of this name.
        """
        if self._regions.pop(name, None) is None:
            raise NotFound(f"there is no region {name!r}")

    def find(self, name: str) -> Region:
        """A region.

        Raises:
            NotFound: There is none of this name.
        """
        try:
            return self._regions[name]
        except KeyError:
            raise NotFound(f"there is no region {name!r}") from None

    def names(self) -> list[str]:
        """The names of all."""
        return sorted(self._regions)


def dtype_of(array: Array) -> str:
    """An array's elements, as a tag names them.

    Raises:
        InvalidArgument: They are no plain numbers.
    """
    dtype = str(array.dtype.str)
    item_size(dtype)
    return dtype


def spans_of(array: Array) -> list[Any]:
    """An array's bytes in C order, as the contiguous pieces of memory in which they lie.

    Returns:
        Flat views of bytes; nothing is copied. None of them is empty.

    Raises:
        InvalidArgument: There are more than 65,536.
    """
    outer = _outer_dimensions(array)
    pieces = math.prod(array.shape[:outer])
    if not math.prod(array.shape):
        return []
    if pieces > SPANS_MAX:
        raise InvalidArgument(
            "array", f"lies in {pieces} pieces, more than {SPANS_MAX}; send a contiguous copy"
        )
    if not outer:
        return [_bytes_of(array)]
    indexes = itertools.product(*map(range, array.shape[:outer]))
    return [_bytes_of(array[(*index, ...)]) for index in indexes]


def _outer_dimensions(array: Array) -> int:
    """How many of the first dimensions have to be gone through to find contiguous pieces."""
    expected = item_size(dtype_of(array))
    for dimension in range(len(array.shape) - 1, -1, -1):
        length, stride = array.shape[dimension], array.strides[dimension]
        if length > 1 and stride != expected:
            return dimension + 1
        expected *= length
    return 0


def _bytes_of(contiguous: Array) -> Any:
    return contiguous.reshape(-1).view("u1")
