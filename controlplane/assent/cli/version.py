# SPDX-License-Identifier: Apache-2.0
"""`assent version`: what is installed, and what this host's kernel offers; needs no daemon."""

from __future__ import annotations

import ctypes
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any

import typer

import assent
from assent.cli.context import JsonFlag, wants_json

_KERNEL_BTF = Path("/sys/kernel/btf/vmlinux")
_JIT = Path("/proc/sys/net/core/bpf_jit_enable")
_MOUNTS = Path("/proc/self/mounts")


def register(root: typer.Typer) -> None:
    """Adds the command of this module."""
    root.command("version")(show)


def show(
    ctx: typer.Context,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Also kernel, libbpf, object and features.")
    ] = False,
    json: JsonFlag = False,
) -> None:
    """Show the version, and what it finds on this host."""
    from assent.cli import render

    facts: dict[str, Any] = {"version": assent.__version__}
    if verbose:
        facts |= _host()
    if wants_json(ctx, json):
        render.print_json(facts)
        return
    render.line(f"assent {assent.__version__}")
    if verbose:
        features = facts.pop("features")
        render.line("")
        render.fields(_spaced({**facts, **features}))


def _host() -> dict[str, Any]:
    gate = _gate()
    return {
        "kernel": os.uname().release,
        "machine": os.uname().machine,
        "btf": _KERNEL_BTF.exists(),
        "libbpf": _libbpf_version(),
        "object": str(gate) if gate else None,
        "features": {
            "libbpf_binding": find_spec("assent._libbpf") is not None,
            "native_endpoint": find_spec("assent._native") is not None,
            "bpf_filesystem": _bpf_filesystem(),
            "bpf_jit": _bpf_jit(),
        },
    }


def _spaced(facts: dict[str, Any]) -> dict[str, Any]:
    return {name.replace("_", " "): value for name, value in facts.items() if name != "version"}


def _gate() -> Path | None:
    from assent.dataplane.objects import packaged
    from assent.errors import NotFound

    try:
        return packaged("gate")
    except NotFound:
        return None


def _libbpf_version() -> str | None:
    """Asks the system's libbpf, which is also the one that the dataplane is linked to."""
    try:
        libbpf = ctypes.CDLL("libbpf.so.1")
    except OSError:
        return None
    libbpf.libbpf_version_string.restype = ctypes.c_char_p
    said: bytes = libbpf.libbpf_version_string()
    return said.decode().removeprefix("v")


def _bpf_filesystem() -> bool:
    lines = _MOUNTS.read_text(encoding="utf-8", errors="replace").splitlines()
    return any(line.split()[2] == "bpf" for line in lines)


def _bpf_jit() -> bool | None:
    """Whether programs are compiled; None where this user may not know."""
    try:
        return _JIT.read_text(encoding="ascii").strip() != "0"
    except OSError:
        return None
