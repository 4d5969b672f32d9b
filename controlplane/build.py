# SPDX-License-Identifier: Apache-2.0
"""Makes what is generated: BPF objects, gRPC stubs and the native modules.

The packaging backend calls it as a hook, `make build` as a program; both make only what is out of
date. Everything lands inside the package, where neither git nor a reader of the sources sees it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "controlplane" / "assent"
STUBS = PACKAGE / "v1"
# Of a module that cffi builds, into the working directory.
_COMPILE = "import runpy, sys; runpy.run_path(sys.argv[1])['ffibuilder'].compile()"


class BuildError(Exception):
    """Something that the build needs is missing; the message says what to install."""


def _newest(paths: Iterable[Path]) -> float:
    return max(path.stat().st_mtime for path in paths)


def _is_fresh(outputs: list[Path], inputs: Iterable[Path]) -> bool:
    return (
        all(path.exists() for path in outputs)
        and bool(outputs)
        and (min(path.stat().st_mtime for path in outputs) >= _newest(inputs))
    )


def _run(command: list[str]) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    if result.returncode:
        raise BuildError(f"{' '.join(command[:3])} ... failed:\n{result.stdout}{result.stderr}")


def build_bpf() -> None:
    """Compiles bpf/*.bpf.c with clang."""
    for tool, package in (("clang", "clang"), ("llvm-strip", "llvm"), ("make", "make")):
        if shutil.which(tool) is None:
            raise BuildError(f"{tool} is missing: install Debian's package {package}")
    jobs = f"-j{os.cpu_count() or 1}"
    _run(["make", "-s", jobs, "-C", str(ROOT / "bpf"), f"OUT={PACKAGE / 'objects'}"])


def build_stubs() -> None:
    """Generates the gRPC messages, stubs and their type hints from proto/."""
    protos = sorted((ROOT / "proto").rglob("*.proto"))
    outputs = [STUBS / f"{proto.stem}_pb2{end}" for proto in protos for end in (".py", ".pyi")]
    outputs += [
        STUBS / f"{proto.stem}_pb2_grpc{end}" for proto in protos for end in (".py", ".pyi")
    ]
    if _is_fresh(outputs, [*protos, Path(__file__)]):
        return
    plugin = shutil.which("protoc-gen-mypy_grpc", path=str(Path(sys.executable).parent))
    plugin = plugin or shutil.which("protoc-gen-mypy_grpc")
    if plugin is None:
        raise BuildError(
            "protoc-gen-mypy_grpc is missing: install the Python package mypy-protobuf"
        )
    STUBS.mkdir(parents=True, exist_ok=True)
    target = PACKAGE.parent
    _run(
        [
            sys.executable, "-m", "grpc_tools.protoc",
            f"--proto_path={ROOT / 'proto'}",
            f"--python_out={target}", f"--pyi_out={target}", f"--grpc_python_out={target}",
            f"--plugin=protoc-gen-mypy_grpc={plugin}", f"--mypy_grpc_out={target}",
            *(str(proto) for proto in protos),
        ]
    )  # fmt: skip
    (STUBS / "__init__.py").write_text('"""gRPC messages and stubs, generated from proto/."""\n')


def build_native() -> None:
    """Compiles the binding of libbpf, the per-packet loops, the simulator, and Numiport."""
    shared = [*(ROOT / "bpf" / "include" / "assent").glob("*.h")]
    engine = [*(PACKAGE / "native").glob("*.[ch]"), *shared]
    numi = PACKAGE / "numiport" / "native"
    modules = {
        "_libbpf": (PACKAGE / "dataplane" / "ffi_build.py", []),
        "_native": (PACKAGE / "native" / "ffi_build.py", engine),
        "_sim": (PACKAGE / "sim" / "ffi_build.py", [*(PACKAGE / "sim").glob("*.[ch]"), *engine]),
        "_numi": (numi / "ffi_build.py", [*numi.glob("*.[ch]"), *shared]),
    }
    with contextlib.ExitStack() as stack:
        compiling = {}
        for name, (builder, sources) in modules.items():
            if _is_fresh(list(PACKAGE.glob(f"{name}.*.so")), [builder, *sources]):
                continue
            scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            # All at once, each in a process of its own: cffi compiles in the working directory.
            process = subprocess.Popen(
                [sys.executable, "-c", _COMPILE, str(builder)],
                cwd=scratch,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            compiling[name] = (stack.enter_context(process), scratch)
        for name, (process, scratch) in compiling.items():
            said, _ = process.communicate()
            if process.returncode:
                raise BuildError(
                    f"compiling {name} failed: it needs gcc and Debian's packages "
                    f"libbpf-dev, libxdp-dev, libssl-dev and python3-dev\n{said}"
                )
            (made,) = scratch.rglob(f"{name}.*.so")
            for old in PACKAGE.glob(f"{name}.*.so"):
                old.unlink()
            shutil.copy2(made, PACKAGE / made.name)


def build() -> None:
    """Makes everything that is out of date."""
    build_bpf()
    build_stubs()
    build_native()


try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ImportError:  # run as a program, outside the packaging backend
    pass
else:

    class NativeBuildHook(BuildHookInterface):  # type: ignore[type-arg]
        """Runs the build before the package is assembled."""

        PLUGIN_NAME = "custom"

        def initialize(self, version: str, build_data: dict[str, Any]) -> None:
            """Builds, and marks the wheel as belonging to this interpreter and platform."""
            del version
            build()
            build_data["pure_python"] = False
            build_data["infer_tag"] = True


if __name__ == "__main__":
    try:
        build()
    except BuildError as error:
        sys.exit(f"build: {error}")
