# SPDX-License-Identifier: Apache-2.0
"""The one wrapper around libbpf: objects, maps, programs, links and ring buffers as owned values.

Everything here owns one file descriptor (or one libbpf handle) and is a context manager; closing
it never removes what is pinned or attached elsewhere. Failures raise `BpfError`, or the local error
that says more: `NotFound`, `AlreadyExists`, `ResourceExhausted`, `FailedPrecondition`.

libbpf never writes to stderr, unless `log_to_stderr` says so: its log's tail is part of the error.
"""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NoReturn

from assent.closing import Closing
from assent.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    LocalError,
    NotFound,
    ResourceExhausted,
)

try:
    from assent._libbpf import ffi, lib
except ImportError as error:
    raise ImportError(
        f"assent._libbpf cannot be loaded ({error}): install Debian's packages libbpf-dev and gcc, "
        "then run `python -m assent.dataplane.ffi_build`"
    ) from error

Mode = Literal["native", "generic"]
ATTACH_MODES: tuple[Mode, ...] = ("native", "generic")

ANY: int = lib.BPF_ANY
NOEXIST: int = lib.BPF_NOEXIST
EXIST: int = lib.BPF_EXIST

_PER_CPU_TYPES = frozenset(
    (lib.BPF_MAP_TYPE_PERCPU_HASH, lib.BPF_MAP_TYPE_PERCPU_ARRAY, lib.BPF_MAP_TYPE_LRU_PERCPU_HASH)
)
_ETH_HEADER_LEN = 14
_BATCH = 1024
# What the kernel may add to a frame in a test run: XDP programs can grow its head and its tail.
_TEST_RUN_ROOM = 512


class BpfError(LocalError):
    """The kernel or libbpf refused.

    Attributes:
        errno: the kernel's error number.
        log: the tail of what libbpf said, the verifier's verdict included; may be empty.
    """

    def __init__(self, message: str, number: int, log: str = "") -> None:
        super().__init__(f"{message}\n{log}" if log else message)
        self.errno = number
        self.log = log


def log_to_stderr(enable: bool) -> None:
    """Shows libbpf's messages on stderr as well, for debugging."""
    lib.assent_log_to_stderr(enable)


def possible_cpus() -> int:
    """Returns how many CPUs a per-CPU map has values for."""
    count: int = lib.libbpf_num_possible_cpus()
    if count < 0:
        _fail("counting the CPUs", -count)
    return count


def _fail(doing: str, number: int | None = None, *, logged: bool = False) -> NoReturn:
    """Raises the error that tells most about the last libbpf call on this thread.

    `logged`: the call is one that explains itself in libbpf's log, which was started before it.
    """
    number = ffi.errno if number is None else number
    log = ""
    if logged:
        log = bytes(ffi.string(lib.assent_log_take())).decode(errors="replace").strip()
    if number == errno.EPERM:
        raise FailedPrecondition(
            f"{doing}: not permitted. BPF needs root, or the capabilities CAP_BPF and CAP_NET_ADMIN"
        )
    if number == errno.ENOSYS:
        raise FailedPrecondition(f"{doing}: this kernel was built without BPF (CONFIG_BPF_SYSCALL)")
    raise BpfError(f"{doing}: {os.strerror(number)}", number, log)


def _path(path: Path) -> bytes:
    return os.fsencode(path)


class _Owned(Closing):
    """A file descriptor with an owner."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    @property
    def fd(self) -> int:
        """The file descriptor.

        Raises:
            FailedPrecondition: it has been closed.
        """
        if self._fd < 0:
            raise FailedPrecondition(f"this {type(self).__name__.lower()} has been closed")
        return self._fd

    def pin(self, path: Path) -> None:
        """Pins the object in a BPF file system: it outlives this process.

        Raises:
            AlreadyExists: something is pinned there.
        """
        if lib.bpf_obj_pin(self.fd, _path(path)):
            if ffi.errno == errno.EEXIST:
                raise AlreadyExists(f"{path} is already pinned")
            _fail(f"pinning {path} (is it in a BPF file system?)")

    def close(self) -> None:
        """Gives the file descriptor back. Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def _open_pin(path: Path) -> int:
    fd: int = lib.bpf_obj_get(_path(path))
    if fd < 0:
        if ffi.errno == errno.ENOENT:
            raise NotFound(f"nothing is pinned at {path}")
        _fail(f"opening {path}")
    return fd


def _info(fd: int, struct: str, what: str) -> Any:
    info = ffi.new(f"struct {struct} *")
    length = ffi.new("uint32_t *", ffi.sizeof(f"struct {struct}"))
    if lib.bpf_obj_get_info_by_fd(fd, info, length):
        _fail(f"asking about {what}")
    return info


def _unpin(path: Path) -> None:
    path.unlink(missing_ok=True)


class Map(_Owned):
    """A BPF map. Keys and values are bytes in the layout that its BTF describes.

    Attributes:
        name: as the kernel knows it (15 characters at most).
        type, key_size, value_size, max_entries, flags: as the kernel reports them; sizes in bytes.
        btf_id, btf_key_type_id, btf_value_type_id: where its types are described; 0 = nowhere.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        try:
            info = _info(fd, "bpf_map_info", "a map")
        except LocalError:
            self.close()
            raise
        self.id: int = info.id
        self.name: str = ffi.string(info.name).decode()
        self.type: int = info.type
        self.key_size: int = info.key_size
        self.value_size: int = info.value_size
        self.max_entries: int = info.max_entries
        self.flags: int = info.map_flags
        self.btf_id: int = info.btf_id
        self.btf_key_type_id: int = info.btf_key_type_id
        self.btf_value_type_id: int = info.btf_value_type_id
        self.per_cpu = self.type in _PER_CPU_TYPES
        # The kernel rounds each CPU's value up to 8 bytes.
        self._stride = -(-self.value_size // 8) * 8
        self._buffer_len = self._stride * possible_cpus() if self.per_cpu else self.value_size

    def __repr__(self) -> str:
        return f"Map({self.name!r}, id={self.id}, max_entries={self.max_entries})"

    @classmethod
    def open_pinned(cls, path: Path) -> Map:
        """Opens a pinned map.

        Raises:
            NotFound: nothing is pinned there.
        """
        return cls(_open_pin(path))

    unpin = staticmethod(_unpin)

    def lookup(self, key: bytes) -> bytes | None:
        """Returns the value under `key`, or None."""
        raw = self._lookup(key)
        return None if raw is None else raw[: self.value_size]

    def lookup_per_cpu(self, key: bytes) -> list[bytes] | None:
        """Returns each CPU's value under `key`, or None."""
        raw = self._lookup(key)
        return None if raw is None else self._per_cpu_values(raw)

    def update(self, key: bytes, value: bytes, flags: int = ANY) -> None:
        """Puts `value` under `key`; for a per-CPU map, the same value on every CPU.

        Args:
            key: `key_size` bytes.
            value: `value_size` bytes.
            flags: ANY, NOEXIST (create only) or EXIST (replace only).

        Raises:
            AlreadyExists: NOEXIST, and the key is there.
            NotFound: EXIST, and the key is not there; or beyond the end of an array.
            ResourceExhausted: the map is full.
        """
        self._check(key, self.key_size, "key")
        self._check(value, self.value_size, "value")
        if self.per_cpu:
            value = value.ljust(self._stride, b"\0") * (self._buffer_len // self._stride)
        if lib.bpf_map_update_elem(self.fd, key, value, flags):
            self._fail_update(key)

    def update_per_cpu(self, key: bytes, values: Sequence[bytes]) -> None:
        """Puts a value of its own for each CPU under `key` of a per-CPU map.

        Raises:
            InvalidArgument: not one value for each possible CPU, or not of that size.
            NotFound: beyond the end of an array.
        """
        if not self.per_cpu or len(values) != self._buffer_len // self._stride:
            raise InvalidArgument("values", f"map {self.name} takes one for each possible CPU")
        self._check(key, self.key_size, "key")
        for value in values:
            self._check(value, self.value_size, "value")
        whole = b"".join(value.ljust(self._stride, b"\0") for value in values)
        if lib.bpf_map_update_elem(self.fd, key, whole, ANY):
            self._fail_update(key)

    def delete(self, key: bytes) -> None:
        """Removes an entry.

        Raises:
            NotFound: there is none.
        """
        self._check(key, self.key_size, "key")
        if lib.bpf_map_delete_elem(self.fd, key):
            if ffi.errno == errno.ENOENT:
                raise NotFound(f"map {self.name} has no entry {key.hex()}")
            _fail(f"deleting from map {self.name}")

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Yields every (key, value); of a per-CPU map, the first CPU's value.

        Safe while others change the map: the kernel walks it bucket by bucket, so that an entry
        which stays throughout is yielded exactly once.
        """
        for key, raw in self._items():
            yield key, raw[: self.value_size]

    def items_per_cpu(self) -> Iterator[tuple[bytes, list[bytes]]]:
        """Yields every (key, value of each CPU)."""
        for key, raw in self._items():
            yield key, self._per_cpu_values(raw)

    def read_range(self, first: int, count: int) -> bytes:
        """Reads entries of an array one after the other, with one system call.

        Of a per-CPU array, each entry is the values of all CPUs, each on an 8-byte boundary.

        Args:
            first: index of the first entry.
            count: how many; all of them must be there.
        """
        if not 0 <= first <= first + count <= self.max_entries:
            raise InvalidArgument("range", f"map {self.name} holds {self.max_entries} entries")
        if not count:
            return b""
        keys = ffi.new("uint32_t[]", count)
        values = ffi.new("char[]", self._buffer_len * count)
        # The kernel goes on after the key that it is given.
        before = ffi.new("uint32_t *", first - 1) if first else ffi.NULL
        after = ffi.new("uint32_t *")
        got = ffi.new("uint32_t *", count)
        failed = lib.bpf_map_lookup_batch(self.fd, before, after, keys, values, got, ffi.NULL)
        # ENOENT: that was the end of the array.
        if failed and ffi.errno != errno.ENOENT:
            _fail(f"reading map {self.name}")
        if got[0] != count:
            raise BpfError(f"reading map {self.name}: {got[0]} of {count} entries", errno.EIO)
        return bytes(ffi.buffer(values))

    def update_batch(self, keys: Sequence[bytes], values: Sequence[bytes]) -> None:
        """Puts many entries with one system call. Not for per-CPU maps.

        On failure the entries before the one that failed have been written.

        Raises:
            ResourceExhausted: the map is full.
            NotFound: beyond the end of an array.
        """
        if len(keys) != len(values) or self.per_cpu:
            raise InvalidArgument("values", "one for each key, and the map not a per-CPU one")
        for key, value in zip(keys, values, strict=True):
            self._check(key, self.key_size, "key")
            self._check(value, self.value_size, "value")
        if not keys:
            return
        count = ffi.new("uint32_t *", len(keys))
        if lib.bpf_map_update_batch(self.fd, b"".join(keys), b"".join(values), count, ffi.NULL):
            self._fail_update(keys[min(count[0], len(keys) - 1)])

    def update_packed(self, keys: bytes, values: bytes | bytearray, count: int) -> None:
        """Puts many entries that lie side by side, with one system call.

        On failure the entries before the one that failed have been written.

        Args:
            keys: `key_size` bytes each.
            values: `packed_size` bytes each; further bytes are not read.
            count: how many.

        Raises:
            ResourceExhausted: the map is full.
            NotFound: beyond the end of an array.
        """
        if len(keys) != count * self.key_size or len(values) < count * self.packed_size:
            raise InvalidArgument("values", "one for each key")
        if not count:
            return
        done = ffi.new("uint32_t *", count)
        if lib.bpf_map_update_batch(
            self.fd, ffi.from_buffer(keys), ffi.from_buffer(values), done, ffi.NULL
        ):
            at = min(done[0], count - 1) * self.key_size
            self._fail_update(keys[at : at + self.key_size])

    def delete_packed(self, keys: bytes) -> int:
        """Removes entries whose keys lie side by side; one system call, and one a missing entry.

        Returns:
            How many were there; those that were not are passed over.
        """
        left, removed = memoryview(keys), 0
        while left:
            count = ffi.new("uint32_t *", len(left) // self.key_size)
            failed = lib.bpf_map_delete_batch(self.fd, ffi.from_buffer(left), count, ffi.NULL)
            if failed and ffi.errno != errno.ENOENT:
                _fail(f"deleting from map {self.name}")
            removed += count[0]
            left = left[(count[0] + bool(failed)) * self.key_size :]
        return removed

    @property
    def packed_size(self) -> int:
        """Bytes of an entry's value in a batch: of a per-CPU map, those of all CPUs."""
        size: int = self._buffer_len
        return size

    def _check(self, given: bytes, size: int, what: str) -> None:
        if len(given) != size:
            raise InvalidArgument(
                what, f"map {self.name} takes {size} bytes, these are {len(given)}"
            )

    def _lookup(self, key: bytes) -> bytes | None:
        self._check(key, self.key_size, "key")
        value = ffi.new("char[]", self._buffer_len)
        if lib.bpf_map_lookup_elem(self.fd, key, value):
            if ffi.errno == errno.ENOENT:
                return None
            _fail(f"reading map {self.name}")
        return bytes(ffi.buffer(value))

    def _items(self) -> Iterator[tuple[bytes, bytes]]:
        size, stride = self.key_size, self._buffer_len
        for keys, values, count in self.batches():
            for i in range(count):
                yield keys[i * size : (i + 1) * size], values[i * stride : (i + 1) * stride]

    def batches(self) -> Iterator[tuple[bytes, bytes, int]]:
        """Yields all entries in batches: keys side by side, values side by side, how many.

        Values are `packed_size` bytes each. As safe as items().
        """
        size, stride = self.key_size, self._buffer_len
        room = min(_BATCH, self.max_entries)
        cursors = [ffi.new("char[]", max(size, 8)) for _ in range(2)]
        previous = ffi.NULL
        count = ffi.new("uint32_t *")
        while True:
            keys, values = ffi.new("char[]", size * room), ffi.new("char[]", stride * room)
            count[0] = room
            failed = lib.bpf_map_lookup_batch(
                self.fd, previous, cursors[0], keys, values, count, ffi.NULL
            )
            number = ffi.errno if failed else 0
            if number == errno.ENOSPC and room < self.max_entries:
                room = min(room * 4, self.max_entries)  # one bucket holds more than the batch
                continue
            if number not in (0, errno.ENOENT):
                _fail(f"listing map {self.name}", number)
            found = count[0]
            yield (
                bytes(ffi.buffer(keys, found * size)),
                bytes(ffi.buffer(values, found * stride)),
                found,
            )
            if number == errno.ENOENT:
                return
            previous = cursors[0]
            cursors.reverse()

    def _per_cpu_values(self, raw: bytes) -> list[bytes]:
        return [raw[at : at + self.value_size] for at in range(0, len(raw), self._stride)]

    def _fail_update(self, key: bytes) -> NoReturn:
        number = ffi.errno
        if number in (errno.ENOSPC, errno.E2BIG):
            raise ResourceExhausted(f"map {self.name} is full: it holds {self.max_entries} entries")
        if number == errno.EEXIST:
            raise AlreadyExists(f"map {self.name} already has an entry {key.hex()}")
        if number == errno.ENOENT:
            raise NotFound(f"map {self.name} has no entry {key.hex()}")
        _fail(f"writing map {self.name}", number)


@dataclass(frozen=True, slots=True)
class TestRun:
    """What a program did to a frame.

    Attributes:
        retval: its return value, an XDP action.
        data: the frame after it ran.
        duration_ns: the kernel's figure for one run: the mean over all repeats, a whole number.
        cpu_ns: this thread's CPU time over all repeats, the system call included.
    """

    __test__ = False  # pytest: not a test class

    retval: int
    data: bytes
    duration_ns: int
    cpu_ns: int


class Program(_Owned):
    """A loaded program.

    Attributes:
        id: the kernel's number for it.
        tag: hash of its instructions, 16 hexadecimal digits; equal for equal programs.
    """

    def __init__(self, fd: int) -> None:
        super().__init__(fd)
        try:
            info = _info(fd, "bpf_prog_info", "a program")
        except LocalError:
            self.close()
            raise
        self.id: int = info.id
        self.type: int = info.type
        self.tag: str = bytes(info.tag).hex()

    def __repr__(self) -> str:
        return f"Program(id={self.id}, tag={self.tag})"

    @classmethod
    def open_pinned(cls, path: Path) -> Program:
        """Opens a pinned program.

        Raises:
            NotFound: nothing is pinned there.
        """
        return cls(_open_pin(path))

    unpin = staticmethod(_unpin)

    def test_run(
        self, frame: bytes, repeat: int = 1, *, ifindex: int = 0, queue: int = 0
    ) -> TestRun:
        """Runs an XDP program, or one for clsact, on a frame (BPF_PROG_TEST_RUN).

        Args:
            frame: from the Ethernet header; at least 14 bytes, or the kernel refuses.
            repeat: runs in a row, on the same buffer.
            ifindex: what the program sees as the frame's interface; 0 = the kernel's default. Must
                exist in this network namespace, and have the queue.
            queue: receive queue; only with `ifindex`, and only for XDP.

        Raises:
            BpfError: the kernel refuses.
        """
        if len(frame) < _ETH_HEADER_LEN:
            raise InvalidArgument("frame", "the kernel runs no frame shorter than 14 bytes")
        room = len(frame) + _TEST_RUN_ROOM
        output = ffi.new("char[]", room)
        source = ffi.from_buffer(frame)
        opts = ffi.new("struct bpf_test_run_opts *")
        opts.sz = ffi.sizeof("struct bpf_test_run_opts")
        opts.data_in, opts.data_size_in = source, len(frame)
        opts.data_out, opts.data_size_out = output, room
        opts.repeat = repeat
        leaving = self.type == lib.BPF_PROG_TYPE_SCHED_CLS
        if ifindex and leaving:
            context = ffi.new("struct __sk_buff *")
            context.ifindex = ifindex
            opts.ctx_in, opts.ctx_size_in = context, ffi.sizeof("struct __sk_buff")
        elif ifindex:
            context = ffi.new("struct xdp_md *")
            context.data_end = len(frame)
            context.ingress_ifindex, context.rx_queue_index = ifindex, queue
            opts.ctx_in, opts.ctx_size_in = context, ffi.sizeof("struct xdp_md")
        started = time.thread_time_ns()
        failed = lib.bpf_prog_test_run_opts(self.fd, opts)
        cpu_ns = time.thread_time_ns() - started
        if failed:
            _fail("running a program on a frame")
        data = bytes(ffi.buffer(output, opts.data_size_out))
        # A verdict for clsact has a sign.
        verdict = int(ffi.cast("int32_t", opts.retval)) if leaving else opts.retval
        return TestRun(verdict, data, opts.duration, cpu_ns)

    def run_stats(self) -> tuple[int, int]:
        """Returns (runs, total ns) counted while `enable_run_stats` was in force."""
        info = _info(self.fd, "bpf_prog_info", "a program")
        return info.run_cnt, info.run_time_ns


def tcx_egress_programs(ifindex: int) -> int:
    """How many programs the kernel asks before clsact about frames that leave.

    0 where it knows no such place (before Linux 6.6).
    """
    count: int = lib.assent_tcx_egress_programs(ifindex)
    if count >= 0 or ffi.errno in (errno.EINVAL, errno.ENODEV):
        return max(count, 0)
    _fail(f"asking for programs on interface {ifindex}")


@contextmanager
def enable_run_stats() -> Iterator[None]:
    """Has the kernel count every program's runs and time, system-wide; costs some 20 ns a run."""
    fd: int = lib.bpf_enable_stats(lib.BPF_STATS_RUN_TIME)
    if fd < 0:
        _fail("enabling BPF statistics")
    try:
        yield
    finally:
        os.close(fd)


def _taken(ifindex: int) -> AlreadyExists:
    return AlreadyExists(
        f"another XDP program is attached to interface {ifindex}: see `ip link show`"
    )


class Link(_Owned):
    """An XDP program's attachment to an interface. It lives while it is open or pinned."""

    _MODES = {"native": lib.XDP_FLAGS_DRV_MODE, "generic": lib.XDP_FLAGS_SKB_MODE}  # noqa: RUF012

    @classmethod
    def attach_xdp(cls, program: Program, ifindex: int, mode: Mode) -> Link:
        """Attaches to an interface of the current network namespace.

        Args:
            program: to run on every arriving frame.
            ifindex: of the interface.
            mode: native = in the driver, generic = after the kernel has made its own buffer.

        Raises:
            InvalidArgument: no such mode.
            AlreadyExists: another program is attached there.
            NotFound: no such interface.
            FailedPrecondition: the driver has no native XDP, or not in this configuration.
        """
        if mode not in cls._MODES:
            raise InvalidArgument("mode", f"{mode!r} is none of {', '.join(ATTACH_MODES)}")
        opts = ffi.new("struct bpf_link_create_opts *")
        opts.sz = ffi.sizeof("struct bpf_link_create_opts")
        opts.flags = cls._MODES[mode]
        fd: int = lib.bpf_link_create(program.fd, ifindex, lib.BPF_XDP, opts)
        if fd >= 0:
            return cls(fd)
        number = ffi.errno
        if number in (errno.EBUSY, errno.EEXIST):
            raise _taken(ifindex)
        if number in (errno.ENODEV, errno.EINVAL):
            raise NotFound(f"no interface {ifindex} in this network namespace takes XDP ({mode})")
        if number == errno.EOPNOTSUPP:
            raise FailedPrecondition(
                f"the driver of interface {ifindex} has no {mode} XDP as it is configured: "
                "use mode generic, or see the driver's notes on MTU, queues and offloads"
            )
        _fail(f"attaching to interface {ifindex}", number)

    @staticmethod
    def check_free(ifindex: int) -> None:
        """Asks whether an interface of the current network namespace has an XDP program.

        Raises:
            AlreadyExists: it has.
        """
        opts = ffi.new("struct bpf_xdp_query_opts *")
        opts.sz = ffi.sizeof("struct bpf_xdp_query_opts")
        if not lib.bpf_xdp_query(ifindex, 0, opts) and (
            opts.prog_id or opts.drv_prog_id or opts.skb_prog_id or opts.hw_prog_id
        ):
            raise _taken(ifindex)

    @classmethod
    def open_pinned(cls, path: Path) -> Link:
        """Opens a pinned link.

        Raises:
            NotFound: nothing is pinned there.
        """
        return cls(_open_pin(path))

    unpin = staticmethod(_unpin)

    @property
    def program_id(self) -> int:
        """The kernel's number for the attached program."""
        return self._ids()[1]

    @property
    def ifindex(self) -> int:
        """The interface in its own network namespace; 0 when it is gone or was detached."""
        return self._ids()[2]

    def mode(self) -> Mode | None:
        """The mode; None where the interface is not in the current network namespace."""
        _, program_id, ifindex = self._ids()
        opts = ffi.new("struct bpf_xdp_query_opts *")
        opts.sz = ffi.sizeof("struct bpf_xdp_query_opts")
        if not ifindex or lib.bpf_xdp_query(ifindex, 0, opts):
            return None
        if opts.attach_mode == lib.XDP_ATTACHED_DRV and opts.drv_prog_id == program_id:
            return "native"
        if opts.attach_mode == lib.XDP_ATTACHED_SKB and opts.skb_prog_id == program_id:
            return "generic"
        return None

    def update_program(self, program: Program) -> None:
        """Replaces the program at once: every frame meets the old one or the new one."""
        if lib.bpf_link_update(self.fd, program.fd, ffi.NULL):
            _fail("replacing an attached program")

    def detach(self) -> None:
        """Takes the program off the interface, whoever else holds the link."""
        if lib.bpf_link_detach(self.fd) and ffi.errno != errno.ENOLINK:
            _fail("detaching")

    def _ids(self) -> tuple[int, int, int]:
        link_id, program_id, ifindex = (ffi.new("uint32_t *") for _ in range(3))
        if lib.assent_link_info(self.fd, link_id, program_id, ifindex):
            _fail("asking about a link")
        return link_id[0], program_id[0], ifindex[0]


class Object(Closing):
    """A compiled BPF object file, opened and then loaded.

    Maps and programs that it hands out have descriptors of their own and outlive it.
    """

    def __init__(self, handle: Any, path: Path) -> None:
        self._handle = handle
        self._path = path
        self._maps: dict[str, Any] = {}
        self._programs: dict[str, Any] = {}
        handle_map = lib.bpf_object__next_map(handle, ffi.NULL)
        while handle_map:
            name = ffi.string(lib.bpf_map__name(handle_map)).decode()
            # Pinning is the caller's decision, never the object file's.
            lib.bpf_map__set_pin_path(handle_map, ffi.NULL)
            if not lib.bpf_map__is_internal(handle_map):
                self._maps[name] = handle_map
            handle_map = lib.bpf_object__next_map(handle, handle_map)
        program = lib.bpf_object__next_program(handle, ffi.NULL)
        while program:
            self._programs[ffi.string(lib.bpf_program__name(program)).decode()] = program
            program = lib.bpf_object__next_program(handle, program)

    @classmethod
    def open(cls, path: Path) -> Object:
        """Reads an object file; the kernel is not asked yet.

        Raises:
            NotFound: no such file.
            BpfError: libbpf cannot read it.
        """
        if not path.exists():
            raise NotFound(f"{path} does not exist: run `make -C bpf`")
        lib.assent_log_start()
        handle = lib.bpf_object__open(_path(path))
        if not handle:
            _fail(f"reading {path}", logged=True)
        return cls(handle, path)

    @property
    def map_names(self) -> tuple[str, ...]:
        """Maps that the object declares, in its order."""
        return tuple(self._maps)

    @property
    def program_names(self) -> tuple[str, ...]:
        """Programs in the object, in its order."""
        return tuple(self._programs)

    def set_max_entries(self, name: str, count: int) -> None:
        """Sizes a map. Before load()."""
        number = lib.bpf_map__set_max_entries(self._map(name), count)
        if number:
            _fail(f"sizing map {name}", -number)

    def max_entries(self, name: str) -> int:
        """Returns how many entries a map has, or will have."""
        count: int = lib.bpf_map__max_entries(self._map(name))
        return count

    def reuse_map(self, name: str, existing: Map) -> None:
        """Uses a map that exists instead of creating one. Before load()."""
        lib.assent_log_start()
        number = lib.bpf_map__reuse_fd(self._map(name), existing.fd)
        if number:
            _fail(f"reusing map {name}", -number, logged=True)

    def load(self) -> None:
        """Creates the maps and loads every program.

        Raises:
            FailedPrecondition: not permitted.
            ResourceExhausted: no memory for the maps.
            BpfError: the verifier refuses; its log's tail is in the message.
        """
        lib.assent_log_start()
        number = lib.bpf_object__load(self._open)
        if -number == errno.ENOMEM:
            raise ResourceExhausted(f"loading {self._path.name}: no memory for its maps")
        if number:
            _fail(f"loading {self._path}", -number, logged=True)

    def map(self, name: str) -> Map:
        """Returns a map of the loaded object.

        Raises:
            NotFound: it declares none of that name.
        """
        return Map(self._duplicate(lib.bpf_map__fd(self._map(name))))

    def program(self, name: str) -> Program:
        """Returns a program of the loaded object.

        Raises:
            NotFound: it has none of that name.
        """
        if name not in self._programs:
            raise NotFound(f"{self._path} has no program {name!r}")
        return Program(self._duplicate(lib.bpf_program__fd(self._programs[name])))

    def close(self) -> None:
        """Frees the object; what it loaded stays while something else holds it. Idempotent."""
        handle, self._handle = self._handle, None
        self._maps, self._programs = {}, {}
        if handle:
            lib.bpf_object__close(handle)

    @property
    def _open(self) -> Any:
        if not self._handle:
            raise FailedPrecondition(f"{self._path.name} has been closed")
        return self._handle

    def _map(self, name: str) -> Any:
        if name not in self._maps:
            raise NotFound(f"{self._path} declares no map {name!r}")
        return self._maps[name]

    def _duplicate(self, fd: int) -> int:
        if fd < 0:
            raise FailedPrecondition(f"{self._path.name} has not been loaded")
        return os.dup(fd)


class RingBuffer(Closing):
    """Reads a BPF ring buffer. One reader at a time: records that one takes, no other sees."""

    def __init__(self, source: Map) -> None:
        lib.assent_log_start()
        self._sink = _Sink()
        self._sink_handle = ffi.new_handle(self._sink)
        self._handle = lib.ring_buffer__new(
            source.fd, lib.assent_on_sample, self._sink_handle, ffi.NULL
        )
        if not self._handle:
            _fail(f"reading ring buffer {source.name}", logged=True)

    @property
    def fd(self) -> int:
        """Becomes readable when there are records: for asyncio's add_reader."""
        fd: int = lib.ring_buffer__epoll_fd(self._open)
        return fd

    def consume(self, limit: int = 4096) -> list[bytes]:
        """Takes the records that are there, at most `limit`, without waiting."""
        self._sink.room = limit
        number: int = lib.ring_buffer__consume(self._open)
        taken, self._sink.taken = self._sink.taken, []
        # The sink stops a walk that has reached the limit; that is no failure.
        if number < 0 and len(taken) < limit:
            _fail("reading a ring buffer", -number)
        return taken

    def close(self) -> None:
        """Stops reading. Idempotent."""
        handle, self._handle = self._handle, None
        if handle:
            lib.ring_buffer__free(handle)

    @property
    def _open(self) -> Any:
        if not self._handle:
            raise FailedPrecondition("this ring buffer has been closed")
        return self._handle


class _Sink:
    """Where a ring buffer's records go during consume()."""

    def __init__(self) -> None:
        self.taken: list[bytes] = []
        self.room = 0


@ffi.def_extern(name="assent_on_sample", error=-errno.EIO)  # type: ignore[untyped-decorator]
def _on_sample(context: Any, data: Any, size: int) -> int:
    sink = ffi.from_handle(context)
    sink.taken.append(bytes(ffi.buffer(data, size)))
    return 0 if len(sink.taken) < sink.room else -errno.EAGAIN


def btf_of_file(path: Path) -> bytes:
    """Returns the raw BTF of an object file.

    Raises:
        NotFound: no such file.
        FailedPrecondition: it carries no BTF.
    """
    if not path.exists():
        raise NotFound(f"{path} does not exist: run `make -C bpf`")
    lib.assent_log_start()
    handle = lib.btf__parse_elf(_path(path), ffi.NULL)
    if not handle:
        raise FailedPrecondition(f"{path} carries no BTF: compile it with clang -g")
    return _raw_btf(handle)


def btf_of_kernel(btf_id: int) -> bytes:
    """Returns the raw BTF that the kernel keeps under a number (see `Map.btf_id`)."""
    lib.assent_log_start()
    handle = lib.btf__load_from_kernel_by_id(btf_id)
    if not handle:
        _fail(f"reading BTF {btf_id} from the kernel")
    return _raw_btf(handle)


def _raw_btf(handle: Any) -> bytes:
    try:
        size = ffi.new("uint32_t *")
        data = lib.btf__raw_data(handle, size)
        return bytes(ffi.buffer(data, size[0]))
    finally:
        lib.btf__free(handle)
