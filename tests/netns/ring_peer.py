# SPDX-License-Identifier: Apache-2.0
"""A process that drives one ring by its C interface: a command a line from stdin, an answer a line.

    ring_peer.py < {"do": "open", ...}    see Peer's methods for the commands

It knows no daemon: the sessions are in the gate, and the test has made up their keys.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import select
import socket
import sys
import threading
import time
from pathlib import Path
from typing import Any

from assent import _native
from assent.dataplane.libbpf import Map
from assent.errors import AssentError

ffi: Any = _native.ffi
lib: Any = _native.lib

LINE_LEN = 64
ERROR_LEN = 256
WAIT_MS = 20_000
SLICE_MS = 100
CELLS = {"left": bytes.fromhex("10" * 16), "right": bytes.fromhex("20" * 16)}


def keys_of(sender: str, flow: int) -> tuple[bytes, bytes]:
    """The payload key of one direction of a flow, and the header key of that direction."""
    payload = hashlib.sha256(f"payload {sender} {flow}".encode()).digest()
    return payload, hashlib.sha256(f"header {sender}".encode()).digest()[:16]


def pattern(seed: int, size: int) -> bytes:
    """Bytes that tell of any that is lost, repeated or out of its place."""
    block = hashlib.sha256(seed.to_bytes(8, "big")).digest()
    return (block * (size // len(block) + 1))[:size]


class FailedError(Exception):
    """What the library says of a failure."""


class Peer:
    """One ring, its flows by number, and what may be asked of them."""

    def __init__(self) -> None:
        self._error = ffi.new("char[]", ERROR_LEN)
        self._ring: Any = ffi.NULL
        self._flows: dict[int, Any] = {}
        self._keep: list[Any] = []
        self._driver: threading.Thread | None = None
        self._driven: dict[str, Any] = {}
        self._is_over = False
        self._lines: Any = None
        self._sockets: Map | None = None
        self._waited: dict[str, Any] = {}
        self._lock = threading.Lock()

    # -- life --

    def do_open(
        self,
        interface: str,
        maps: str = "",
        backend: int = 0,
        lent: list[int] | None = None,
        **options: int,
    ) -> dict[str, Any]:
        """Opens the ring; `maps`: where the gate's maps are pinned."""
        config = self._config(interface, maps, backend, lent, **options)
        self._ring = lib.an_ring_open(config, self._error, ERROR_LEN)
        if self._ring == ffi.NULL:
            raise FailedError(self._message())
        return self.do_describe()

    def do_borrow(self, path: str) -> dict[str, Any]:
        """Opens a ring from the file descriptors that come over a unix socket."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lender:
            lender.connect(path)
            said, fds, _, _ = socket.recv_fds(lender, 1024, 8)
        names = json.loads(said)
        found = dict(zip(names, fds, strict=True))
        self._doorbell = found["doorbell"]
        lent = [found["socket"], found.get("umem", -1), found["bell"], found["page"]]
        return self.do_open("", lent=lent)

    def do_add(
        self,
        flow: int,
        side: str,
        slot: int,
        macs: dict[str, str],
        mtu: int = 1500,
        index: int = -1,
        **options: int,
    ) -> dict[str, Any]:
        """Adds a flow of the session between left and right; `index`: of its lent line."""
        other = "right" if side == "left" else "left"
        config = ffi.new("struct an_flow_config *")
        tx_payload, tx_header = keys_of(side, flow)
        for name, value in (
            ("local_cell", CELLS[side]),
            ("remote_cell", CELLS[other]),
            ("local_mac", bytes.fromhex(macs[side].replace(":", ""))),
            ("remote_mac", bytes.fromhex(macs[other].replace(":", ""))),
            ("tx_payload_key", tx_payload),
            ("rx_payload_key", keys_of(other, flow)[0]),
            ("tx_header_key", tx_header),
        ):
            ffi.memmove(getattr(config, name), value, len(value))
        config.epoch, config.flow, config.mtu = 1, flow, mtu
        config.class_ = lib.AN_STANDARD
        for name, number in options.items():
            setattr(config, name, number)
        if index >= 0:
            config.lent, config.doorbell = 1, self._doorbell
            config.line = lib.an_ring_lent_line(self._ring, index)
        else:
            config.line = self._lines + slot * LINE_LEN
        added = lib.an_ring_add(self._ring, config, self._error, ERROR_LEN)
        if added == ffi.NULL:
            raise FailedError(self._message())
        self._flows[flow] = added
        return {}

    def do_add_many(self, first: int, count: int, slot: int, **options: Any) -> dict[str, Any]:
        """Adds flows of consecutive numbers; `slot`: of flow 0."""
        for flow in range(first, first + count):
            self.do_add(flow, slot=slot + flow, **options)
        return {}

    def do_drive(self) -> dict[str, Any]:
        """Starts the driver thread."""
        self._driver = threading.Thread(target=self._drive, daemon=True)
        self._driver.start()
        return {}

    def do_move(self, interface: str, mac: str, maps: str, backend: int = 0) -> dict[str, Any]:
        """Moves the ring to another interface."""
        config = self._config(interface, maps, backend, None)
        local = ffi.new("uint8_t[6]", bytes.fromhex(mac.replace(":", "")))
        self._check(lib.an_ring_move(self._ring, config, local, self._error, ERROR_LEN))
        return self.do_describe()

    def do_remove(self, flow: int) -> dict[str, Any]:
        """Removes a flow."""
        lib.an_ring_remove(self._ring, self._flows.pop(flow))
        return {}

    def do_close(self) -> dict[str, Any]:
        """Closes the ring, and says how the driver thread came to its end."""
        self._is_over = True
        lib.an_ring_wake(self._ring)
        if self._driver:
            self._driver.join(10)
        lib.an_ring_close(self._ring)
        self._flows.clear()
        return {"driver": self._driven}

    def do_describe(self) -> dict[str, Any]:
        """What the ring is."""
        info = ffi.new("struct an_ring_info *")
        lib.an_ring_describe(self._ring, info)
        return {
            "backend": {1: "af_xdp", 2: "af_packet"}[info.backend],
            "interface": ffi.string(info.interface).decode(),
            "fallback_reason": ffi.string(info.fallback_reason).decode(),
            **{
                name: getattr(info, name)
                for name in ("zero_copy", "need_wakeup", "busy_poll", "flows", "foreign", "dropped")
            },
        }

    def do_stats(self, flow: int) -> dict[str, Any]:
        """A flow's counts."""
        stats = ffi.new("struct an_stats *")
        lib.an_ring_stats(self._ring, self._flows[flow], stats)
        return {name: getattr(stats, name) for name, _ in ffi.typeof("struct an_stats").fields}

    # -- messages --

    def do_send(self, flow: int, count: int, size: int, seed: int = 0) -> dict[str, Any]:
        """Sends messages one by one, and waits until they are receipted."""
        for i in range(count):
            self._send(self._flows[flow], pattern(seed + i, size))
        self._await(self._flows[flow], lib.AN_DRAINED)
        return {"sent": count * size}

    def do_recv(self, flow: int, count: int, size: int, seed: int = 0) -> dict[str, Any]:
        """Receives messages one by one, and holds each against what it should be."""
        for i in range(count):
            if self._recv(self._flows[flow], size) != pattern(seed + i, size):
                raise FailedError(f"message {i} is not what was sent")
        return {"received": count * size}

    def do_send_each(self, flows: list[int], count: int, size: int) -> dict[str, Any]:
        """One message a flow in turn, then waits for all to be receipted."""
        for i in range(count):
            for flow in flows:
                self._send(self._flows[flow], pattern(flow * 1000 + i, size))
        for flow in flows:
            self._await(self._flows[flow], lib.AN_DRAINED)
        return {}

    def do_recv_each(self, flows: list[int], count: int, size: int) -> dict[str, Any]:
        """What do_send_each sends, by watches and the ring's eventfd."""
        left = {self._flows[flow]: (flow, 0) for flow in flows}
        fired = ffi.new("an_flow *[]", 64)
        pending = list(left)
        until = time.monotonic() + WAIT_MS / 1000
        while left:
            if time.monotonic() > until:
                raise FailedError(f"{len(left)} flows still wait")
            for handle in pending:
                while handle in left and lib.an_ring_watch(self._ring, handle, lib.AN_READABLE):
                    flow, i = left[handle]
                    if self._recv(handle, size) != pattern(flow * 1000 + i, size):
                        raise FailedError(f"flow {flow}: message {i} is not what was sent")
                    left[handle] = (flow, i + 1)
                    if i + 1 == count:
                        del left[handle]
            if not self._driver:
                lib.an_ring_drive(self._ring, 5, self._error, ERROR_LEN)
            else:
                time.sleep(0.001)
            pending = [fired[i] for i in range(lib.an_ring_fired(self._ring, fired, 64))]
            pending = [handle for handle in pending if handle in left]
        return {}

    def do_echo(self, flow: int, count: int, size: int) -> dict[str, Any]:
        """Answers each message with itself."""
        handle = self._flows[flow]
        for _ in range(count):
            self._send(handle, self._recv(handle, size))
        self._await(handle, lib.AN_DRAINED)
        return {}

    def do_ask(self, flow: int, count: int, size: int) -> dict[str, Any]:
        """Sends a message and awaits its echo, again and again: times in microseconds."""
        handle, times = self._flows[flow], []
        buffer, end = ffi.new("uint8_t[]", size), ffi.new("int *")
        span, keep = self._span(pattern(1, size))
        for _ in range(count):
            began = time.perf_counter_ns()
            lib.an_ring_send_all(self._ring, handle, span, 1, 0, 0, WAIT_MS, self._error, ERROR_LEN)
            got = lib.an_ring_recv_all(
                self._ring, handle, buffer, size, 0, end, WAIT_MS, self._error, ERROR_LEN
            )
            times.append(time.perf_counter_ns() - began)
            if got != size:
                raise FailedError(f"{got}: {self._message()}")
        times.sort()
        del keep
        return {"p50": times[count // 2] / 1000, "p99": times[count * 99 // 100] / 1000}

    def do_finish(self, flow: int) -> dict[str, Any]:
        """Ends this direction of a flow."""
        until = time.monotonic() + WAIT_MS / 1000
        while (result := lib.an_ring_finish(self._ring, self._flows[flow])) == -11:
            self._await(self._flows[flow], lib.AN_WRITABLE)
            if time.monotonic() > until:
                break
        self._check(result)
        self._await(self._flows[flow], lib.AN_DRAINED)
        return {}

    def do_await(self, flow: int, bits: int, milliseconds: int) -> dict[str, Any]:
        """Waits for bits of enum an_ready."""
        return {"bits": self._check(self._wait(self._flows[flow], bits, milliseconds))}

    def do_error(self, flow: int) -> dict[str, Any]:
        """What an_ring_error says."""
        number = lib.an_ring_error(self._ring, self._flows[flow], self._error, ERROR_LEN)
        return {"errno": -number, "why": self._message() if number else ""}

    def do_wait_apart(self, flow: int, bits: int) -> dict[str, Any]:
        """Waits for bits in a thread of its own; do_waited says what came of it."""
        error = ffi.new("char[]", ERROR_LEN)

        def wait() -> None:
            result = lib.an_ring_wait(self._ring, handle, bits, WAIT_MS, error, ERROR_LEN)
            self._waited.update(result=result, why=ffi.string(error).decode())

        handle, self._waited = self._flows[flow], {}
        self._waiter = threading.Thread(target=wait)
        self._waiter.start()
        return {}

    def do_waited(self) -> dict[str, Any]:
        """What came of do_wait_apart."""
        self._waiter.join(WAIT_MS / 1000)
        return self._waited

    # -- lending --

    def do_lend(
        self, path: str, interface: str, maps: str, side: str, slots: list[int], backend: int = 0
    ) -> dict[str, Any]:
        """Makes a loan, with the flows at these slots, for whoever connects to `path`."""
        config = self._config(interface, maps, backend, None)
        self._loan = lib.an_loan_open(config, len(slots), self._error, ERROR_LEN)
        if self._loan == ffi.NULL:
            raise FailedError(self._message())
        for index, slot in enumerate(slots):
            self._check(
                lib.an_loan_lend(
                    self._loan, index, CELLS[side], index + 1, self._lines + slot * LINE_LEN,
                    self._error, ERROR_LEN,
                )
            )  # fmt: skip
        info = ffi.new("struct an_loan_info *")
        lib.an_loan_describe(self._loan, info)
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(path)
        Path(path).chmod(0o666)
        listener.listen(1)
        threading.Thread(target=self._lend, args=(listener, info), daemon=True).start()
        return {"fallback_reason": ffi.string(info.fallback_reason).decode()}

    def do_describe_maps(self, maps: str) -> dict[str, Any]:
        """Opens the gate's map of flows, which only the privileged may."""
        try:
            self._map_lines(Path(maps))
        except (AssentError, OSError) as error:
            raise FailedError(str(error)) from None
        return {}

    def do_take_back(self, index: int) -> dict[str, Any]:
        """Ends the loan of one flow."""
        with self._lock:
            lib.an_loan_take_back(self._loan, index)
        return {}

    def do_wish(self, index: int, name: str, value: int) -> dict[str, Any]:
        """Writes a member of a lent line, as a borrower that lies may, and rings."""
        line = lib.an_ring_lent_line(self._ring, index)
        at, kind = {"taken": (80, "uint64_t *"), "tx_seq": (36, "uint32_t *")}[name]
        ffi.cast(kind, ffi.cast("uint8_t *", line) + at)[0] = value
        os.write(self._doorbell, (1).to_bytes(8, "little"))
        return {}

    def _lend(self, listener: socket.socket, info: Any) -> None:
        borrower, _ = listener.accept()
        names = ["socket", "umem", "bell", "page", "doorbell"]
        names = [name for name in names if getattr(info, name) >= 0]
        fds = [getattr(info, name) for name in names]
        socket.send_fds(borrower, [json.dumps(names).encode()], fds)
        while True:
            select.select([info.doorbell], [], [], 1)
            with self._lock:
                lib.an_loan_apply(self._loan)

    # -- measurements --

    def do_stream(self, flow: int, total: int, size: int) -> dict[str, Any]:
        """Sends `total` bytes in messages of `size` bytes."""
        handle = self._flows[flow]
        span, keep = self._span(pattern(0, size))
        began = time.perf_counter()
        for _ in range(total // size):
            taken = lib.an_ring_send_all(
                self._ring, handle, span, 1, 0, 0, WAIT_MS, self._error, ERROR_LEN
            )
            if taken != size:
                raise FailedError(f"{taken}: {self._message()}")
        self._await(handle, lib.AN_DRAINED)
        del keep
        seconds = time.perf_counter() - began
        return {"seconds": seconds, "cpu": time.process_time()}

    def do_sink(self, flow: int, total: int, size: int) -> dict[str, Any]:
        """Receives what do_stream sends."""
        buffer, end = ffi.new("uint8_t[]", size), ffi.new("int *")
        began = None
        for _ in range(total // size):
            got = lib.an_ring_recv_all(
                self._ring, self._flows[flow], buffer, size, 0, end, WAIT_MS, self._error, ERROR_LEN
            )
            if got != size:
                raise FailedError(f"{got}: {self._message()}")
            began = began or time.perf_counter()
        seconds = time.perf_counter() - (began or 0)
        lib.an_ring_wait(self._ring, self._flows[flow], lib.AN_READABLE, 50, self._error, ERROR_LEN)
        return {"seconds": seconds, "cpu": time.process_time()}

    def do_blast(self, flow: int, count: int, size: int, coalesce: bool) -> dict[str, Any]:
        """Sends short messages, many a call."""
        handle, batch = self._flows[flow], 4096
        base = ffi.from_buffer("uint8_t[]", bytearray(batch * size))
        flags = lib.AN_COALESCE if coalesce else 0
        began, sent = time.perf_counter(), 0
        while sent < count:
            many = min(batch, count - sent)
            done = lib.an_ring_write_many(self._ring, handle, base, size, ffi.NULL, many, flags)
            if done == -11:
                self._await(handle, lib.AN_WRITABLE)
                continue
            sent += self._check(done)
        self._await(handle, lib.AN_DRAINED)
        return {"seconds": time.perf_counter() - began, "cpu": time.process_time()}

    def do_collect(self, flow: int, count: int, size: int) -> dict[str, Any]:
        """Receives what do_blast sends."""
        handle, batch = self._flows[flow], 4096
        buffer = ffi.new("uint8_t[]", batch * size)
        lengths = ffi.new("uint32_t[]", batch)
        began, got = None, 0
        while got < count:
            many = lib.an_ring_read_many(self._ring, handle, buffer, batch * size, lengths, batch)
            if many == -11:
                self._await(handle, lib.AN_READABLE)
                continue
            got += self._check(many)
            began = began or time.perf_counter()
        seconds = time.perf_counter() - (began or 0)
        lib.an_ring_wait(self._ring, handle, lib.AN_READABLE, 50, self._error, ERROR_LEN)
        return {"seconds": seconds, "cpu": time.process_time()}

    # -- inside --

    def _config(
        self, interface: str, maps: str, backend: int, lent: list[int] | None, **options: int
    ) -> Any:
        config = ffi.new("struct an_ring_config *")
        config.interface = interface.encode()
        config.sockets_map = -1
        config.backend = backend
        config.lent_fds = lent or [-1] * 4
        if maps and self._lines is None:
            self._map_lines(Path(maps))
        if maps:
            self._sockets = self._sockets or Map.open_pinned(Path(maps) / "sockets")
            config.sockets_map = self._sockets.fd
        for name, value in options.items():
            setattr(config, name, value)
        return config

    def _map_lines(self, maps: Path) -> None:
        flows = Map.open_pinned(maps / "flows")
        length = -(-flows.max_entries * LINE_LEN // mmap.PAGESIZE) * mmap.PAGESIZE
        memory = mmap.mmap(flows.fd, length)
        flows.close()
        self._lines = ffi.from_buffer("uint8_t[]", memory, require_writable=True)
        self._keep.append(memory)

    def _drive(self) -> None:
        error = ffi.new("char[]", ERROR_LEN)
        while not self._is_over:
            result = lib.an_ring_drive(self._ring, SLICE_MS, error, ERROR_LEN)
            if result:
                self._driven = {"errno": -result, "why": ffi.string(error).decode()}

    def _message(self) -> str:
        return str(ffi.string(self._error).decode(errors="replace"))

    def _check(self, result: int) -> int:
        if result < 0:
            raise FailedError(f"{result}: {self._message()}")
        return result

    def _span(self, data: bytes) -> tuple[Any, Any]:
        keep = ffi.from_buffer("uint8_t[]", data)
        span = ffi.new("struct an_span[1]")
        span[0].data, span[0].len = keep, len(data)
        return span, (keep, data)

    def _wait(self, handle: Any, bits: int, milliseconds: int = WAIT_MS) -> int:
        return int(lib.an_ring_wait(self._ring, handle, bits, milliseconds, self._error, ERROR_LEN))

    def _await(self, handle: Any, bits: int) -> None:
        if not self._check(self._wait(handle, bits)):
            raise FailedError(f"waited in vain for {bits}")

    def _send(self, handle: Any, data: bytes) -> None:
        span, keep = self._span(data)
        taken = self._check(
            lib.an_ring_send_all(self._ring, handle, span, 1, 0, 0, WAIT_MS, self._error, ERROR_LEN)
        )
        del keep
        if taken != len(data):
            raise FailedError(f"{taken} of {len(data)} bytes were taken")

    def _recv(self, handle: Any, size: int) -> bytes:
        buffer, end = ffi.new("uint8_t[]", size + 1), ffi.new("int *")
        got = self._check(
            lib.an_ring_recv_all(
                self._ring, handle, buffer, size + 1, 0, end, WAIT_MS, self._error, ERROR_LEN
            )
        )
        if not end[0]:
            raise FailedError(f"a message is not whole: {got} bytes of it came")
        return bytes(ffi.buffer(buffer, got))


def main() -> None:
    peer = Peer()
    for line in sys.stdin:
        command = json.loads(line)
        try:
            answer = getattr(peer, "do_" + command.pop("do"))(**command)
        except FailedError as error:
            answer = {"failed": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
