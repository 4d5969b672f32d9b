# SPDX-License-Identifier: Apache-2.0
"""clsact and its filters, asked for and changed from wherever a caller may be."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import grpc.aio
import pytest

from assent.dataplane import clsact
from assent.dataplane.clsact import Filter
from assent.dataplane.libbpf import Object, Program
from assent.demo.lab import inside
from assent.errors import AlreadyExists, NotFound

pytestmark = pytest.mark.netns

ROOT = Path(__file__).parents[2]
INTERFACE = "fab0"
HANDLE = 0x77
MISSING = 0x7FFF
SOURCE = """
#include <linux/bpf.h>
#include <linux/pkt_cls.h>
#include <bpf/bpf_helpers.h>

SEC("tc") int older(struct __sk_buff *ctx) { return TC_ACT_OK; }
SEC("tc") int newer(struct __sk_buff *ctx) { return TC_ACT_UNSPEC; }
char LICENSE[] SEC("license") = "GPL";
"""


@pytest.fixture
def index() -> Iterator[int]:
    """An interface, in a namespace where the test is from then on."""
    namespace = f"clsact-{os.getpid()}-{uuid.uuid4().hex[:8]}"
    subprocess.run(["ip", "netns", "add", namespace], check=True)
    try:
        with inside(namespace):
            run("ip", "link", "add", INTERFACE, "type", "veth", "peer", "name", "far")
            yield socket.if_nametoindex(INTERFACE)
    finally:
        subprocess.run(["ip", "netns", "del", namespace], check=True)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Object]:
    folder = tmp_path_factory.mktemp("programs")
    source, made = folder / "programs.c", folder / "programs.o"
    source.write_text(SOURCE)
    include = f"/usr/include/{os.uname().machine}-linux-gnu"
    flags = ["-target", "bpf", "-O2", "-g", "-isystem", include]
    subprocess.run(["clang", *flags, "-c", str(source), "-o", str(made)], check=True)
    with Object.open(made) as opened:
        opened.load()
        yield opened


@pytest.fixture
def older(programs: Object) -> Iterator[Program]:
    with programs.program("older") as program:
        yield program


@pytest.fixture
def newer(programs: Object) -> Iterator[Program]:
    with programs.program("newer") as program:
        yield program


def run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"


def tc_filter(*arguments: str) -> None:
    run("tc", "filter", "add", "dev", INTERFACE, "egress", *arguments)


def held() -> tuple[int, int]:
    """How many file descriptors and threads are open here."""
    return len(list(Path("/proc/self/fd").iterdir())), threading.active_count()


def placed(program: Program, name: str, handle: int = HANDLE) -> Filter:
    return Filter(clsact.FIRST, handle, "bpf", name, program.id, decides=True)


def come_and_go(index: int, older: Program, newer: Program) -> None:
    assert clsact.ensure(index)
    assert not clsact.ensure(index)
    assert clsact.exists(index)
    clsact.put(index, HANDLE, "a name", older)
    assert clsact.filters(index) == [placed(older, "a name")]
    clsact.put(index, HANDLE, "another", newer)
    assert clsact.filters(index) == [placed(newer, "another")]
    clsact.remove_unused(index)
    assert clsact.exists(index), "it is in use"
    clsact.take(index, HANDLE)
    assert clsact.filters(index) == []
    clsact.remove_unused(index)
    assert not clsact.exists(index)


def test_filters_come_are_replaced_and_go(index: int, older: Program, newer: Program):
    come_and_go(index, older, newer)


async def test_inside_a_loop_and_nothing_is_left(index: int, older: Program, newer: Program):
    before = held()
    come_and_go(index, older, newer)
    assert held() == before


async def test_beside_a_running_grpc_server_and_its_loop(
    index: int, older: Program, newer: Program
):
    server = grpc.aio.server()
    server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        come_and_go(index, older, newer)
    finally:
        await server.stop(None)


def test_in_a_thread_that_has_no_loop(index: int, older: Program, newer: Program):
    """It starts in the namespace of its maker."""
    failed: list[BaseException] = []

    def work() -> None:
        try:
            come_and_go(index, older, newer)
        except BaseException as error:
            failed.append(error)

    before = held()
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert failed == []
    assert held() == before


def test_a_filter_for_what_arrives_keeps_clsact(index: int):
    clsact.ensure(index)
    match = ("u32", "match", "u32", "0", "0", "classid", "1:1")
    run("tc", "filter", "add", "dev", INTERFACE, "ingress", "protocol", "all", *match)
    clsact.remove_unused(index)
    assert clsact.exists(index)
    assert clsact.filters(index) == []


def test_the_filters_of_others_are_seen_in_their_order(index: int, older: Program):
    clsact.ensure(index)
    match = ("u32", "match", "u32", "0", "0", "classid", "1:1")
    tc_filter("pref", "9", "protocol", "all", "bpf", "bytecode", "1,6 0 0 4294967295,")
    tc_filter("pref", "7", "protocol", "all", *match)
    tc_filter("pref", "5", "chain", "3", "protocol", "all", *match)
    clsact.put(index, HANDLE, "ours", older)
    ours, *others = clsact.filters(index)
    assert ours == placed(older, "ours")
    # u32 lists its table too; the other chain is not asked unless somebody leads there.
    assert [(each.priority, each.kind) for each in others] == [(7, "u32"), (7, "u32"), (9, "bpf")]
    assert {(each.name, each.program_id, each.decides) for each in others} == {("", 0, False)}


def test_many_filters_are_more_than_one_answer(index: int, older: Program):
    clsact.ensure(index)
    name = "n" * 250
    for handle in range(1, 301):
        clsact.put(index, handle, name, older)
    found = clsact.filters(index)
    assert sorted(found, key=lambda each: each.handle) == [
        placed(older, name, handle) for handle in range(1, 301)
    ]


def test_a_name_that_is_not_utf_8(index: int, older: Program):
    clsact.ensure(index)
    clsact.put(index, HANDLE, b"\xff-name", older)  # type: ignore[arg-type]
    assert clsact.filters(index) == [placed(older, "\ufffd-name")]


def test_the_older_ingress_leaves_no_place(index: int):
    run("tc", "qdisc", "add", "dev", INTERFACE, "ingress")
    with pytest.raises(AlreadyExists, match="ingress, which leaves no place for clsact"):
        clsact.ensure(index)
    assert not clsact.exists(index)


def test_no_such_interface():
    with pytest.raises(NotFound, match="No such device"):
        clsact.ensure(MISSING)
    with pytest.raises(NotFound, match="it is not there"):
        clsact.take(MISSING, HANDLE)
    clsact.remove_unused(MISSING)
    assert not clsact.exists(MISSING)
    assert clsact.filters(MISSING) == []


def test_nothing_is_put_where_it_is_not(index: int, older: Program):
    with pytest.raises(NotFound, match="No such device"):
        clsact.put(MISSING, HANDLE, "", older)
    with pytest.raises(NotFound, match="it has no clsact"):
        clsact.put(index, HANDLE, "", older)
    clsact.ensure(index)
    with pytest.raises(NotFound, match="it is not there"):
        clsact.take(index, HANDLE)


def test_without_the_right_to(index: int):
    code = f"from assent.dataplane import clsact; clsact.ensure({index})"
    bereft = ("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--", sys.executable, "-c")
    path = {**os.environ, "PYTHONPATH": str(ROOT / "controlplane")}
    done = subprocess.run([*bereft, code], capture_output=True, text=True, check=False, env=path)
    assert "FailedPrecondition: adding clsact" in done.stderr
    assert "not permitted, this needs CAP_NET_ADMIN" in done.stderr
    assert not clsact.exists(index)
