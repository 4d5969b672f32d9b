# SPDX-License-Identifier: Apache-2.0
"""The gate: one instance of the program and its maps, pinned so that it outlives the daemon.

    <pin_root>/<instance>/maps/<name>
    <pin_root>/<instance>/programs/gate
    <pin_root>/<instance>/links/<interface>

An instance appears whole or not at all: it is pinned in a directory of another name, and then
renamed. Opening one that is there adopts it: its maps go on, and where the packaged program is a
newer one, it takes the old one's place in every attachment without losing a frame.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from assent.dataplane import bpffs
from assent.dataplane.btf import Btf
from assent.dataplane.libbpf import Link, Map, Mode, Object, Program
from assent.dataplane.objects import packaged
from assent.dataplane.profiles import Profile
from assent.dataplane.tables import GateConfig, Tables
from assent.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound

PIN_ROOT = Path("/sys/fs/bpf/assent")
PROGRAM = "gate"

_INSTANCE = re.compile(r"[a-z0-9-]{1,32}")
_MAPS, _PROGRAMS, _LINKS = "maps", "programs", "links"
# No instance's name has an underscore, so these are nobody's.
_NEW, _OLD = "_new", "_old"


@dataclass(frozen=True, slots=True)
class Attachment:
    """An interface that the gate guards.

    Attributes:
        ifname: its name when it was attached to.
        ifindex: its number in its own network namespace; 0 = the interface is gone.
        mode: "native" or "generic"; None = not known, since it is in another network namespace.
    """

    ifname: str
    ifindex: int
    mode: Mode | None


class Gate:
    """One gate, opened. Closing it leaves it at work; see destroy().

    Attributes:
        instance: its name.
        adopted: whether it was there before.
        tables: its maps, typed.
    """

    def __init__(
        self, instance: str, path: Path, btf: Btf, maps: dict[str, Map], program: Program
    ) -> None:
        """Takes ownership of the maps and the program; see open()."""
        self.instance = instance
        self.adopted = False
        self._path = path
        self._maps = maps
        self._program = program
        self.tables = Tables(btf, maps)

    def __repr__(self) -> str:
        return f"Gate({self.instance!r})"

    @classmethod
    def open(
        cls,
        instance: str,
        profile: Profile,
        pin_root: Path = PIN_ROOT,
        object_path: Path | None = None,
    ) -> Gate:
        """Adopts an instance, or creates it.

        Args:
            instance: 1 to 32 of a-z, 0-9 and "-".
            profile: its size. An instance that is there must have the same.
            pin_root: a directory in a BPF file system, made where it is missing.
            object_path: the compiled gate; None = the packaged one.

        Raises:
            InvalidArgument: no such name is possible.
            FailedPrecondition: something that BPF needs is missing; or the instance that is there
                has another size, other layouts, or is not whole.
            ResourceExhausted: no memory for the maps.
            BpfError: the kernel refuses the program.
        """
        if not _INSTANCE.fullmatch(instance):
            raise InvalidArgument("instance", "must be 1 to 32 of a-z, 0-9 and -")
        object_path = object_path or packaged("gate")
        bpffs.ensure(pin_root)
        try:
            pin_root.mkdir(parents=True, exist_ok=True)
        except PermissionError:
            raise FailedPrecondition(f"no right to create {pin_root}: this needs root") from None
        path = pin_root / instance
        btf = Btf.from_object(object_path)
        if not path.exists():
            with contextlib.suppress(AlreadyExists):  # someone else was faster: adopt theirs
                return cls._create(instance, path, btf, profile, object_path)
        return cls._adopt(instance, path, btf, profile, object_path)

    @classmethod
    def private(cls, profile: Profile, object_path: Path | None = None) -> Gate:
        """Loads a gate that nothing pins: it is gone when it is closed. For tests and measurements.

        It cannot be attached. Args and errors as for open().
        """
        object_path = object_path or packaged("gate")
        btf = Btf.from_object(object_path)
        with _loaded(object_path, profile) as loaded:
            gate = cls("private", Path("/nonexistent"), btf, *_take(loaded))
        gate.tables.config.write(GateConfig())
        return gate

    @property
    def program(self) -> Program:
        """The program that decides."""
        return self._program

    def map(self, name: str) -> Map:
        """Returns a map by name; the gate keeps owning it.

        Raises:
            NotFound: there is none of that name.
        """
        try:
            return self._maps[name]
        except KeyError:
            raise NotFound(f"the gate has no map {name!r}") from None

    @property
    def map_names(self) -> tuple[str, ...]:
        """Names of all maps."""
        return tuple(self._maps)

    def attach(self, ifname: str, mode: Mode = "native") -> Attachment:
        """Guards an interface of the current network namespace; once is enough.

        Args:
            ifname: of the interface.
            mode: native = in the driver; generic = any driver, slower.

        Raises:
            NotFound: no such interface.
            AlreadyExists: another XDP program is attached there, or the gate is in another mode.
            FailedPrecondition: the driver has no native XDP.
        """
        ifindex = _ifindex(ifname)
        pin = self._link_path(ifname)
        if pin.exists():
            with Link.open_pinned(pin) as link:
                found = Attachment(ifname, link.ifindex, link.mode())
            if found.ifindex == ifindex and found.mode == mode:
                return found
            if found.ifindex == ifindex and found.mode is not None:
                raise AlreadyExists(f"{ifname} is attached in mode {found.mode}: detach it first")
            if found.ifindex:
                raise AlreadyExists(
                    f"an interface {ifname} of another network namespace is attached already"
                )
            # The interface went, and came back under its name; the old link holds nothing.
            Link.unpin(pin)
        with Link.attach_xdp(self._program, ifindex, mode) as link:
            link.pin(pin)
        return Attachment(ifname, ifindex, mode)

    def detach(self, ifname: str) -> None:
        """Leaves an interface unguarded: its frames reach the kernel undecided.

        Raises:
            NotFound: the gate is not attached there.
        """
        pin = self._link_path(ifname)
        with Link.open_pinned(pin) as link:
            link.detach()
        Link.unpin(pin)

    def attachments(self) -> list[Attachment]:
        """Returns the interfaces that the gate guards, by name."""
        found = []
        for pin in _entries(self._path / _LINKS):
            with Link.open_pinned(pin) as link:
                found.append(Attachment(_interface_of(pin), link.ifindex, link.mode()))
        return sorted(found, key=lambda attachment: attachment.ifname)

    def destroy(self) -> None:
        """Detaches and unpins everything, and closes. Sessions and counters are lost."""
        self.close()
        self.remove(self.instance, self._path.parent)

    @staticmethod
    def remove(instance: str, pin_root: Path = PIN_ROOT) -> None:
        """Removes an instance without opening it, whole or not. Nothing happens where none is."""
        if not _INSTANCE.fullmatch(instance):
            raise InvalidArgument("instance", "must be 1 to 32 of a-z, 0-9 and -")
        path = pin_root / instance
        if not path.exists():
            return
        for pin in _entries(path / _LINKS):
            with Link.open_pinned(pin) as link:
                link.detach()
        # Renamed first: nobody adopts a half of it meanwhile.
        doomed = pin_root / f"{_OLD}-{instance}-{os.getpid()}"
        path.rename(doomed)
        _remove_tree(doomed)
        with contextlib.suppress(OSError):  # other instances are there
            pin_root.rmdir()

    def close(self) -> None:
        """Gives back file descriptors and mappings; the gate goes on deciding. Idempotent."""
        self.tables.close()
        self._program.close()
        for table in self._maps.values():
            table.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @classmethod
    def _create(
        cls, instance: str, path: Path, btf: Btf, profile: Profile, object_path: Path
    ) -> Gate:
        with _loaded(object_path, profile) as loaded:
            gate = cls(instance, path, btf, *_take(loaded))
        try:
            gate.tables.config.write(GateConfig())
            gate._pin_all()
        except BaseException:
            gate.close()
            raise
        return gate

    def _pin_all(self) -> None:
        _sweep(self._path.parent, self.instance)
        fresh = self._path.parent / f"{_NEW}-{self.instance}-{os.getpid()}"
        try:
            for part in (_MAPS, _PROGRAMS, _LINKS):
                (fresh / part).mkdir(parents=True)
            for name, table in self._maps.items():
                table.pin(fresh / _MAPS / name)
            self._program.pin(fresh / _PROGRAMS / PROGRAM)
            try:
                fresh.rename(self._path)
            except OSError:  # the BPF file system does not replace a directory that has entries
                raise AlreadyExists(f"gate {self.instance} exists already") from None
        except BaseException:
            _remove_tree(fresh)
            raise

    @classmethod
    def _adopt(
        cls, instance: str, path: Path, btf: Btf, profile: Profile, object_path: Path
    ) -> Gate:
        with contextlib.ExitStack() as undo, Object.open(object_path) as candidate:
            maps: dict[str, Map] = {}
            try:
                for name in candidate.map_names:
                    maps[name] = undo.enter_context(Map.open_pinned(path / _MAPS / name))
                program = undo.enter_context(Program.open_pinned(path / _PROGRAMS / PROGRAM))
            except NotFound as error:
                raise FailedPrecondition(
                    f"gate {instance} is not whole ({error}): destroy it, and open it again"
                ) from error
            _check_sizes(instance, maps, profile, candidate)
            _check_layouts(instance, maps, btf)
            for name, table in maps.items():
                candidate.reuse_map(name, table)
            candidate.load()
            newer = undo.enter_context(candidate.program(PROGRAM))
            gate = cls(instance, path, btf, maps, program)
            if newer.tag != program.tag:
                gate._replace_program(newer)
            else:
                newer.close()
            undo.pop_all()
        gate.adopted = True
        gate._finish_replacement()
        return gate

    def _replace_program(self, newer: Program) -> None:
        """Pins the new program, then gives it to every attachment.

        In this order, so that whoever is interrupted here leaves an instance which the next
        _finish_replacement() puts right: the pin says what all links should run.
        """
        fresh = self._path / _PROGRAMS / _NEW
        Program.unpin(fresh)
        newer.pin(fresh)
        fresh.rename(self._path / _PROGRAMS / PROGRAM)
        old, self._program = self._program, newer
        old.close()

    def _finish_replacement(self) -> None:
        for pin in _entries(self._path / _LINKS):
            with Link.open_pinned(pin) as link:
                if link.ifindex and link.program_id != self._program.id:
                    link.update_program(self._program)

    def _link_path(self, ifname: str) -> Path:
        return self._path / _LINKS / _pin_name(ifname)


@contextlib.contextmanager
def _loaded(object_path: Path, profile: Profile) -> Iterator[Object]:
    with Object.open(object_path) as opened:
        for name, count in profile.capacities().items():
            opened.set_max_entries(name, count)
        opened.load()
        yield opened


def _take(loaded: Object) -> tuple[dict[str, Map], Program]:
    return {name: loaded.map(name) for name in loaded.map_names}, loaded.program(PROGRAM)


def _check_sizes(instance: str, maps: dict[str, Map], profile: Profile, candidate: Object) -> None:
    wanted = profile.capacities()
    for name, table in maps.items():
        count = wanted.get(name, candidate.max_entries(name))
        if table.max_entries != count:
            made = "with another profile" if name in wanted else "by another version"
            raise FailedPrecondition(
                f"gate {instance} was created {made}: its map {name} holds {table.max_entries} "
                f"entries, and {count} are wanted. Open it as it was made, or destroy it first: "
                "its sessions must then be set up again"
            )


def _check_layouts(instance: str, maps: dict[str, Map], btf: Btf) -> None:
    """Compares the layouts that the pinned maps were made with to those of the new program."""
    for name, table in maps.items():
        try:
            wanted = btf.map_value(name)
        except NotFound:  # a ring, or plain integers
            continue
        same = table.value_size == wanted.size
        if same and table.btf_id:
            same = Btf.from_kernel(table.btf_id).layout_of(table.btf_value_type_id) == wanted
        if not same:
            raise FailedPrecondition(
                f"gate {instance} was created by another version: struct {wanted.name} of its map "
                f"{name} differs. Destroy it (its sessions must be set up again), then open it"
            )


def _ifindex(ifname: str) -> int:
    try:
        return socket.if_nametoindex(ifname)
    except OSError:
        raise NotFound(f"no interface {ifname!r} in this network namespace") from None


def _pin_name(ifname: str) -> str:
    """The BPF file system takes no dots in names; VLAN interfaces have them."""
    return ifname.replace("%", "%25").replace(".", "%2e")


def _interface_of(pin: Path) -> str:
    return pin.name.replace("%2e", ".").replace("%25", "%")


def _entries(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []


def _remove_tree(path: Path) -> None:
    for directory, names, files in os.walk(path, topdown=False):
        for name in files:
            (Path(directory) / name).unlink()
        for name in names:
            (Path(directory) / name).rmdir()
    if path.is_dir():
        path.rmdir()


def _sweep(pin_root: Path, instance: str) -> None:
    """Removes what processes that have died left half-done for this instance."""
    for left in _entries(pin_root):
        match = re.fullmatch(rf"({_NEW}|{_OLD})-{instance}-(\d+)", left.name)
        if match and not Path(f"/proc/{match[2]}").exists():
            _remove_tree(left)
