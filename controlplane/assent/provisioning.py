# SPDX-License-Identifier: Apache-2.0
"""Cells by the thousand, cut into requests that the daemon takes.

with Client() as client:
summary = client.provisioning.Install(install_requests(items))
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from assent.v1.cells_pb2 import CellRef
from assent.v1.provisioning_pb2 import InstallItem, InstallRequest, RemoveRequest

ITEMS_A_REQUEST: Final = 4000
"""One request is one transaction: the more, the faster, and the longer others are held up."""
# The daemon's limit of 2 MiB, with room for what surrounds the items.
_BYTES_A_REQUEST: Final = 2_000_000
_ITEM_FRAME: Final = 8


def install_requests(
    items: Iterable[InstallItem], *, replace: bool = False
) -> Iterator[InstallRequest]:
    """Cuts items into requests, in their order.

    Args:
        items: any number.
        replace: whether cells of the same names give way.
    """
    part: list[InstallItem] = []
    size = 0
    for item in items:
        more = item.ByteSize() + _ITEM_FRAME
        if part and (len(part) == ITEMS_A_REQUEST or size + more > _BYTES_A_REQUEST):
            yield InstallRequest(items=part, replace=replace)
            part, size = [], 0
        part.append(item)
        size += more
    if part:
        yield InstallRequest(items=part, replace=replace)


def remove_requests(cells: Iterable[CellRef]) -> Iterator[RemoveRequest]:
    """Cuts references to cells into requests, in their order."""
    left = iter(cells)
    while part := list(islice(left, ITEMS_A_REQUEST)):
        yield RemoveRequest(cells=part)
