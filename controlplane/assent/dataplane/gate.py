# SPDX-License-Identifier: Apache-2.0
"""The gate: one instance of its programs and its maps, pinned so that it outlives the daemon.

    <pin_root>/<instance>/maps/<name>
    <pin_root>/<instance>/programs/gate      what arrives
    <pin_root>/<instance>/programs/egress    what leaves by the kernel's stack
    <pin_root>/<instance>/links/<interface>

An instance appears whole or not at all: it is pinned in a directory of another name, and then
renamed. Opening one that is there adopts it: its maps go on, and where a packaged program is a
newer one, it takes the old one's place in every attachment without losing a frame. Where maps have
another layout or size by now, what they hold is carried over (see migrate.py): the new instance is
pinned beside the old one, is put to work in its place, and then the two directories are exchanged.

A link holds the program for what arrives. The one for what leaves is a filter of the interface, for
which the kernel has no such thing: it stays until it is removed, and whoever may, may remove it.
"""

from __future__ import annotations

import contextlib
import os
import re
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from assent.closing import Closing
from assent.dataplane import bpffs, egress, migrate
from assent.dataplane.btf import Btf
from assent.dataplane.egress import Egress, EgressState
from assent.dataplane.libbpf import Link, Map, Mode, Object, Program
from assent.dataplane.migrate import Fate, Migration
from assent.dataplane.objects import packaged
from assent.dataplane.profiles import Profile
from assent.dataplane.tables import GateConfig, Tables
from assent.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound

PIN_ROOT = Path("/sys/fs/bpf/assent")
PROGRAM = "gate"

_INSTANCE = re.compile(r"[a-z0-9-]{1,32}")
_MAPS, _PROGRAMS, _LINKS = "maps", "programs", "links"
# A directory in an instance that took another one's place and has not been let through wholly.
_UNFINISHED = "unfinished"
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


class Gate(Closing):
    """One gate, opened. Closing it leaves it at work; see destroy().

    Attributes:
        instance: its name.
        adopted: whether it was there before.
        migrated: what became of its maps when it was adopted, by name: "kept", "created", "carried"
            or "renewed" (begun anew, empty); nothing where all were kept.
        tables: its maps, typed.
    """

    def __init__(
        self,
        instance: str,
        path: Path,
        btf: Btf,
        profile: Profile,
        maps: dict[str, Map],
        program: Program,
        object_path: Path | None = None,
    ) -> None:
        """Takes ownership of the maps and the program; see open()."""
        self.instance = instance
        self.adopted = False
        self.migrated: dict[str, str] = {}
        self._object_path = object_path
        self._path = path
        self._maps = maps
        self._program = program
        self._egress: Egress | None = None
        self.tables = Tables(btf, maps, profile.connections)

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
            profile: its size. An instance that is there is made larger or smaller.
            pin_root: a directory in a BPF file system, made where it is missing.
            object_path: the compiled gate; None = the packaged one.

        Raises:
            InvalidArgument: no such name is possible.
            FailedPrecondition: something that BPF needs is missing; or the instance that is there
                is not whole, or its maps cannot be carried over.
            ResourceExhausted: no memory for the maps, or no room in them for what the instance
                that is there holds.
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
            gate = cls("private", Path("/nonexistent"), btf, profile, *_take(loaded), object_path)
        gate.tables.config.write(GateConfig())
        return gate

    @property
    def program(self) -> Program:
        """The program that decides."""
        return self._program

    @property
    def egress(self) -> Egress:
        """The program that decides on what leaves; of a private gate, loaded at first use."""
        if self._egress is None:
            program = egress.load(_beside(self._object_path, egress.PROGRAM), self._maps)
            self._egress = Egress(self.instance, program)
        return self._egress

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
            AlreadyExists: another XDP program is attached there, or the gate is in another mode;
                or another queueing discipline is in the place of clsact.
            FailedPrecondition: the driver has no native XDP.
        """
        ifindex = _ifindex(ifname)
        attached = self._arriving(ifname, ifindex, mode)
        # What leaves comes first: as soon as anything is decided on arrival, nothing leaves
        # undecided, and an answer cannot be faster than the gate.
        changed = self.egress.attach(ifindex)
        try:
            if attached is None:
                with Link.attach_xdp(self._program, ifindex, mode) as link:
                    link.pin(self._link_path(ifname))
        except BaseException:
            if changed:
                self.egress.detach(ifindex)
            raise
        self.tables.counters.give_block(ifindex)
        return attached or Attachment(ifname, ifindex, mode)

    def _arriving(self, ifname: str, ifindex: int, mode: Mode) -> Attachment | None:
        """How an interface is attached already; None where it is free. Nothing has been changed."""
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
        Link.check_free(ifindex)
        return None

    def detach(self, ifname: str) -> None:
        """Leaves an interface unguarded: its frames reach the kernel undecided.

        Raises:
            NotFound: the gate is not attached there.
        """
        pin = self._link_path(ifname)
        with Link.open_pinned(pin) as link:
            _release(self.instance, link)
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
                _release(instance, link)
        # Renamed first: nobody adopts a half of it meanwhile.
        doomed = pin_root / f"{_OLD}-{instance}-{os.getpid()}"
        path.rename(doomed)
        _remove_tree(doomed)
        _sweep(pin_root, instance)
        with contextlib.suppress(OSError):  # other instances are there
            pin_root.rmdir()

    def close(self) -> None:
        """Gives back file descriptors and mappings; the gate goes on deciding. Idempotent."""
        self.tables.close()
        self._program.close()
        if self._egress is not None:
            self._egress.close()
        for table in self._maps.values():
            table.close()

    @classmethod
    def _create(
        cls, instance: str, path: Path, btf: Btf, profile: Profile, object_path: Path
    ) -> Gate:
        with _loaded(object_path, profile) as loaded:
            gate = cls(instance, path, btf, profile, *_take(loaded), object_path)
        try:
            gate.tables.config.write(GateConfig())
            gate._pin_all()
        except BaseException:
            gate.close()
            raise
        return gate

    def _pin_all(self) -> None:
        _sweep(self._path.parent, self.instance)
        fresh = self._fresh_path()
        try:
            self._pin_in(fresh)
            try:
                fresh.rename(self._path)
            except OSError:  # the BPF file system does not replace a directory that has entries
                raise AlreadyExists(f"gate {self.instance} exists already") from None
        except BaseException:
            _remove_tree(fresh)
            raise

    def _fresh_path(self) -> Path:
        return self._path.parent / f"{_NEW}-{self.instance}-{os.getpid()}"

    def _pin_in(self, fresh: Path) -> None:
        for part in (_MAPS, _PROGRAMS, _LINKS):
            (fresh / part).mkdir(parents=True)
        for name, table in self._maps.items():
            table.pin(fresh / _MAPS / name)
        self._program.pin(fresh / _PROGRAMS / PROGRAM)
        self.egress.program.pin(fresh / _PROGRAMS / egress.PROGRAM)

    @classmethod
    def _adopt(
        cls, instance: str, path: Path, btf: Btf, profile: Profile, object_path: Path
    ) -> Gate:
        _finish_succession(instance, path)
        with contextlib.ExitStack() as undo, Object.open(object_path) as candidate:
            pinned = _pinned_maps(path, undo)
            try:
                program = undo.enter_context(Program.open_pinned(path / _PROGRAMS / PROGRAM))
            except NotFound as error:
                raise FailedPrecondition(
                    f"gate {instance} is not whole ({error}): destroy it, and open it again"
                ) from error
            before = migrate.shapes_of_maps(pinned)
            after = migrate.shapes_of_object(btf, profile.capacities())
            plan = migrate.plan(instance, before, after)
            for name in candidate.map_names:
                if plan.fates[name] is Fate.KEPT:
                    candidate.reuse_map(name, pinned[name])
                else:
                    candidate.set_max_entries(name, after[name].max_entries)
            if plan.is_needed:
                migration = Migration(btf, pinned, after, plan, before)
                migration.check(profile.connections)
                candidate.load()
                gate = cls(instance, path, btf, profile, *_take(candidate), object_path)
                gate._succeed(program, migration)
                return gate
            candidate.load()
            newer = undo.enter_context(candidate.program(PROGRAM))
            maps = {name: pinned.pop(name) for name in candidate.map_names}
            gate = cls(instance, path, btf, profile, maps, program, object_path)
            if newer.tag != program.tag:
                gate._replace_program(newer)
            else:
                newer.close()
            for other in pinned.values():
                other.close()
            undo.pop_all()
        gate.adopted = True
        try:
            gate._adopt_egress()
            gate._finish_replacement()
        except BaseException:
            gate.close()
            raise
        return gate

    def _succeed(self, old: Program, migration: Migration) -> None:
        """Takes the place of the instance that is pinned.

        Whoever is killed here before the exchange leaves the old instance, though others may run in
        its attachments, which _finish_replacement() puts right; after it, this one, and in it a
        directory by which _finish_succession() knows that it is to be let through.
        """
        fresh, links = self._fresh_path(), self._path / _LINKS
        with contextlib.ExitStack() as undo:
            leaving = _pinned_egress(self.instance, self._path, undo)
            try:
                _sweep(self._path.parent, self.instance)
                _put_to_work(links, old, leaving)
                self._pin_in(fresh)
                (fresh / _UNFINISHED).mkdir()
                for pin in _entries(links):
                    with Link.open_pinned(pin) as link:
                        link.pin(fresh / _LINKS / pin.name)
                migration.bind(self._maps)
                migration.fill()
                _put_to_work(links, self._program, self.egress)
                migrate.wait_for_readers()
                migration.settle()
                bpffs.exchange(fresh, self._path)
            except BaseException:
                _put_to_work(links, old, leaving)
                self.close()
                _remove_tree(fresh)
                raise
        self.adopted = True
        self.migrated = {name: str(fate) for name, fate in migration.plan.fates.items()}
        try:
            migration.reopen()
            migration.add_counts()
            (self._path / _UNFINISHED).rmdir()
            _remove_tree(fresh)
        except BaseException:
            self.close()
            raise

    def _replace_program(self, newer: Program) -> None:
        """Pins the new program, then gives it to every attachment.

        In this order, so that whoever is interrupted here leaves an instance which the next
        _finish_replacement() puts right: the pin says what all links should run.
        """
        self._repin(newer, PROGRAM)
        old, self._program = self._program, newer
        old.close()

    def _adopt_egress(self) -> None:
        """Opens the pinned egress program, or pins a newer one in its place."""
        newer = self.egress.program
        try:
            pinned = Program.open_pinned(self._path / _PROGRAMS / egress.PROGRAM)
        except NotFound:
            self._repin(newer, egress.PROGRAM)
            return
        if pinned.tag == newer.tag:
            self.egress.replace(pinned)
            return
        pinned.close()
        self._repin(newer, egress.PROGRAM)

    def _repin(self, newer: Program, name: str) -> None:
        fresh = self._path / _PROGRAMS / _NEW
        Program.unpin(fresh)
        newer.pin(fresh)
        fresh.rename(self._path / _PROGRAMS / name)

    def _finish_replacement(self) -> None:
        _put_to_work(self._path / _LINKS, self._program, self.egress)

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


def _beside(object_path: Path | None, name: str) -> Path:
    """A compiled object of the same build."""
    if object_path is not None:
        found = object_path.with_name(packaged(name).name)
        if found.exists():
            return found
    return packaged(name)


def _pinned_maps(path: Path, undo: contextlib.ExitStack) -> dict[str, Map]:
    pins = _entries(path / _MAPS)
    return {pin.name: undo.enter_context(Map.open_pinned(pin)) for pin in pins}


def _pinned_egress(instance: str, path: Path, undo: contextlib.ExitStack) -> Egress | None:
    try:
        program = Program.open_pinned(path / _PROGRAMS / egress.PROGRAM)
    except NotFound:  # of before there was one
        return None
    found = Egress(instance, program)
    undo.callback(found.close)
    return found


def _put_to_work(links: Path, program: Program, leaving: Egress | None) -> None:
    """Has all attachments run these programs."""
    for pin in _entries(links):
        with Link.open_pinned(pin) as link:
            if link.ifindex and link.program_id != program.id:
                link.update_program(program)
            # Filters can be reached from their own network namespace alone.
            index = link.ifindex if link.mode() is not None else 0
            if index and leaving and leaving.state(index) is EgressState.OTHER_PROGRAM:
                leaving.attach(index)


def _finish_succession(instance: str, path: Path) -> None:
    """Finishes what a process that has died left undone, after it had exchanged the instances."""
    mark = path / _UNFINISHED
    if not mark.is_dir():
        _sweep(path.parent, instance)
        return
    left = [
        tree
        for tree in _entries(path.parent)
        if (match := _is_left(instance, tree)) and match[1] == _NEW
    ]
    for tree in left:
        with contextlib.ExitStack() as undo:
            old, new = _pinned_maps(tree, undo), _pinned_maps(path, undo)
            shapes = migrate.shapes_of_maps(new)
            btf = Btf.from_kernel(new["sessions"].btf_id)
            migration = Migration(btf, old, shapes, migrate.plan_of(old, new))
            migration.bind(new)
            migration.reopen()
    mark.rmdir()
    for tree in left:
        _remove_tree(tree)


def _release(instance: str, link: Link) -> None:
    """Takes both programs off a link's interface, the one for what leaves last.

    An interface of another network namespace keeps that one: what leaves there goes on being
    decided, by the maps that the program holds.
    """
    ifindex = link.ifindex if link.mode() is not None else 0
    link.detach()
    if ifindex:
        egress.remove(instance, ifindex)


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


def _is_left(instance: str, path: Path) -> re.Match[str] | None:
    return re.fullmatch(rf"({_NEW}|{_OLD})-{instance}-(\d+)", path.name)


def _sweep(pin_root: Path, instance: str) -> None:
    """Removes what processes that have died left half-done for this instance; or this one did."""
    for left in _entries(pin_root):
        match = _is_left(instance, left)
        if match and (int(match[2]) == os.getpid() or not Path(f"/proc/{match[2]}").exists()):
            _remove_tree(left)
