# SPDX-License-Identifier: Apache-2.0
"""Arrays straight into a peer's registered memory (seed UTCP, "Tensor Extensions").

A receiver registers arrays under names (`Regions`) and listens for the label "tensor"; a sender
opens a flow to it, of the class TENSOR, which goes before standard and bulk flows. Who does not
listen refuses such flows: nothing of this is active unless an application asks for it. See
docs/storage-tensor.md.
"""

from assent.tensor.channel import (
    LABEL,
    Landed,
    RefusedError,
    TensorError,
    TensorReceiver,
    TensorSender,
    open_sender,
)
from assent.tensor.regions import Array, Region, Regions

__all__ = [
    "LABEL",
    "Array",
    "Landed",
    "RefusedError",
    "Region",
    "Regions",
    "TensorError",
    "TensorReceiver",
    "TensorSender",
    "open_sender",
]
