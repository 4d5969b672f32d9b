# SPDX-License-Identifier: Apache-2.0
"""Builds assent._sim: the simulator's world, with the engine and the gate's verdict inside it."""

from __future__ import annotations

from pathlib import Path

from cffi import FFI

HERE = Path(__file__).resolve().parent
NATIVE = HERE.parent / "native"
INCLUDE = HERE.parents[2] / "bpf" / "include"
# What the engine is made of: no port, no ring, no socket.
ENGINE = ("aead.c", "flow*.c", "gaps.c", "pool.c", "records.c")


def _declarations(header: Path) -> str:
    """The part of the header that Python sees: one truth for both languages."""
    text = header.read_text()
    return text.split("/* python: begin */", 1)[1].split("/* python: end */", 1)[0]


def sources() -> list[Path]:
    """The C files of the module."""
    engine = (path for pattern in ENGINE for path in NATIVE.glob(pattern))
    return sorted([*HERE.glob("*.c"), *engine])


ffibuilder = FFI()
ffibuilder.cdef(_declarations(HERE / "sim.h"))
ffibuilder.set_source(
    "assent._sim",
    '#include "sim.h"\n',
    sources=[str(path) for path in sources()],
    include_dirs=[str(HERE), str(NATIVE), str(INCLUDE)],
    define_macros=[("_GNU_SOURCE", None)],
    libraries=["crypto", "m"],
    extra_compile_args=[
        "-O2",
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-Wno-unused-parameter",
    ],
)

if __name__ == "__main__":
    ffibuilder.compile(verbose=True)
