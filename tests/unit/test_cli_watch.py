# SPDX-License-Identifier: Apache-2.0
"""`assent watch`, `capture`, `explain` and `top` against an API that answers as it is told."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

import assent
from assent.cli.counts import ranked
from assent.cli.explain import _CALL_MAX
from assent.cli.main import app
from assent.cli.top import Row, rates, rows_of
from assent.service.examiner import FRAMES_MAX
from assent.v1 import cells_pb2, common_pb2, fabric_pb2, fabric_pb2_grpc
from assent.wire.captures import VERDICT_LEN, read_capture
from assent.wire.pcapng import PcapngWriter

PACKAGE_PARENT = Path(assent.__file__).resolve().parents[1]
LEFT, RIGHT = common_pb2.CellId(value=b"\x11" * 16), common_pb2.CellId(value=b"\x22" * 16)
HEAD = bytes(range(78))
TIME = 1_700_000_000_123_456_789
BAD_TAG = fabric_pb2.Event(
    time_unix_ns=TIME,
    reason="bad_tag",
    interface="fab0",
    session_id=7,
    src=LEFT,
    dst=RIGHT,
    src_name="left",
    flow=1,
    seq=99,
    flags=0x8008,
    payload_len=1408,
    frame_len=1486,
    head=HEAD,
    direction=fabric_pb2.DIRECTION_ARRIVING,
    rule="header key of session 7",
)
SHORT = fabric_pb2.Event(
    time_unix_ns=TIME, reason="malformed_length", frame_len=40, head=HEAD[:14], suppressed=3
)


RELAYED = fabric_pb2.Event(
    time_unix_ns=TIME,
    reason="lwf_unknown_hint",
    interface="fab0",
    frame_len=300,
    lwf_source=b"\x44" * 24,
    lwf_destination=b"\x55" * 24,
    payload_len=100,
    vlan=12,
    direction=fabric_pb2.DIRECTION_LEAVING,
)
WOULD = fabric_pb2.Event(
    time_unix_ns=TIME, reason="no_credit", src=LEFT, dst=RIGHT, would_drop=True, rule="a rule"
)
SUMMARY = fabric_pb2.WatchSummary(
    reasons=[fabric_pb2.WatchedReason(reason="bad_tag", counted=9, told=1, suppressed=8)],
    last=True,
)
SUMMARY_LINE = "bad_tag: counted 9 = told 1 + suppressed 8"


class FakeFabric(fabric_pb2_grpc.FabricServicer):
    """Sends its events, then waits for ever or ends; explains by a table; counts upwards."""

    def __init__(self) -> None:
        self.events: list[fabric_pb2.Event] = []
        self.watched: list[fabric_pb2.WatchEventsRequest] = []
        self.frames: list[list[fabric_pb2.Frame]] = []
        self.failure: tuple[grpc.StatusCode, str] | None = None
        self.lasting = False
        self.looks = 0
        self.summary = SUMMARY
        self.counters_asked: list[fabric_pb2.GetCountersRequest] = []

    def WatchEvents(  # noqa: N802
        self, request_iterator: Iterator[Any], context: grpc.ServicerContext
    ) -> Iterator[Any]:
        self.watched.append(next(request_iterator))
        if self.failure:
            context.abort(*self.failure)
        for event in self.events:
            yield fabric_pb2.WatchEventsResponse(event=event)
        if self.lasting:
            # Until the client ends its side, or goes.
            with contextlib.suppress(grpc.RpcError):
                list(request_iterator)
        yield fabric_pb2.WatchEventsResponse(summary=self.summary)

    def Explain(self, request_iterator: Any, context: grpc.ServicerContext) -> Iterator[Any]:  # noqa: N802
        taken: list[fabric_pb2.Frame] = []
        self.frames.append(taken)
        if self.failure:
            context.abort(*self.failure)
        for index, frame in enumerate(request_iterator):
            taken.append(frame)
            if frame.data[12:14] != b"\x88\xb5":
                yield fabric_pb2.Explanation(
                    index=index,
                    ethertype=0x0800,
                    verdict="pass",
                    reason="not_fabric",
                    stage="ethertype",
                )
                continue
            yield fabric_pb2.Explanation(
                index=index,
                ethertype=0x88B5,
                verdict="drop",
                reason="unknown_source",
                stage="source",
                src_cell=LEFT,
                dst_cell=RIGHT,
                dst_name="right",
                flow=1,
                seq=5,
                consulted=[
                    fabric_pb2.MapEntry(map="locals", key="22", found=True, says="number 0"),
                    fabric_pb2.MapEntry(map="sessions", key="11 to 22"),
                ],
            )

    def GetCounters(self, request: Any, context: grpc.ServicerContext) -> Any:  # noqa: N802
        self.looks += 1
        self.counters_asked.append(request)
        lines = {"admitted": 1000 * self.looks, "bad_tag": 5, "replay": 0}
        counters = [
            fabric_pb2.Counter(reason=reason, frames=frames, bytes=100 * frames)
            for reason, frames in lines.items()
        ]
        counters[1].events, counters[1].suppressed = 2, 3
        refused = [fabric_pb2.ReasonFrames(reason="replay", frames=4)]
        return fabric_pb2.Counters(
            counters=counters,
            leaving=[fabric_pb2.Counter(reason="no_credit", frames=0, would_drop=6)],
            interfaces=[
                fabric_pb2.InterfaceCounters(),
                fabric_pb2.InterfaceCounters(name="fab0", index=3, arriving=counters),
            ],
            pairs=[
                fabric_pb2.PairCounters(
                    remote=LEFT,
                    local=RIGHT,
                    local_name="right",
                    admitted=7 * self.looks,
                    bytes=700,
                    dropped=4,
                    would_drop=1,
                    reasons=refused,
                )
            ],
            others=fabric_pb2.PairCounters(admitted=1),
            other_pairs=1200,
        )


class Api:
    """The fake, and where it listens."""

    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.fabric = FakeFabric()

    def run(self, *args: str) -> Result:
        return CliRunner().invoke(app, ["--socket", str(self.socket), *args], prog_name="assent")

    def start(self, *args: str, **options: Any) -> subprocess.Popen[bytes]:
        """Starts the command as a process; its warnings are errors, too."""
        return subprocess.Popen(
            [
                *(sys.executable, "-W", "error", "-m", "assent.cli.main"),
                *("--socket", str(self.socket), *args),
            ],
            env={**os.environ, "PYTHONPATH": str(PACKAGE_PARENT), "TERM": "xterm-256color"},
            **options,
        )


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    for name in ("ASSENT_DEBUG", "NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    made = Api(tmp_path / "api.sock")
    with ThreadPoolExecutor(max_workers=2) as pool:
        server = grpc.server(pool)
        fabric_pb2_grpc.add_FabricServicer_to_server(made.fabric, server)
        server.add_insecure_port(f"unix:{made.socket}")
        server.start()
        yield made
        server.stop(None).wait()


def interrupt(api: Api, *args: str, shown: Path) -> tuple[int, str, str]:
    """Runs a command until it has dealt with the one event that there is, then presses Ctrl-C.

    Args:
        api: Where the event comes from.
        *args: The command.
        shown: The file where it puts the event.
    """
    api.fabric.events, api.fabric.lasting = [BAD_TAG], True
    with (shown.parent / "stdout").open("w+b") as out:
        with api.start(*args, stdout=out, stderr=subprocess.PIPE) as process:
            deadline = time.monotonic() + 30
            while not (shown.exists() and b"bad_tag" in shown.read_bytes()):
                assert process.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.01)
            process.send_signal(signal.SIGINT)
            _, err = process.communicate(timeout=30)
        out.seek(0)
        return process.returncode, out.read().decode(), err.decode()


def on_a_terminal(api: Api, *args: str) -> str:
    """What a command prints on a terminal."""
    near, far = pty.openpty()
    with api.start(*args, stdin=far, stdout=far, stderr=far) as process:
        os.close(far)
        shown = b""
        while True:
            try:
                piece = os.read(near, 4096)
            except OSError:  # how Linux says that nobody has the other side open
                break
            shown += piece
        process.wait(30)
    os.close(near)
    assert process.returncode == 0, shown
    return shown.decode()


class TestWatch:
    def test_one_line_an_event(self, api: Api) -> None:
        api.fabric.events = [BAD_TAG, SHORT]
        result = api.run("watch")
        assert result.exit_code == 0
        first, second, closing = result.stdout.splitlines()
        assert " ".join(first.split()) == (
            f"22:13:20.123Z bad_tag fab0 in left > {'22' * 8} frame 1486 "
            "flow 1 seq 99 payload 1408 DATA session 7 [header key of session 7]"
        )
        assert " ".join(second.split()) == (
            "22:13:20.123Z malformed_length - in ? > ? frame 40 (+3 suppressed)"
        )
        assert closing == SUMMARY_LINE
        assert first.index(" > ") == second.index(" > ")
        assert first.index(" frame ") == second.index(" frame ")
        assert result.stderr == ""
        assert "\x1b" not in result.stdout

    def test_what_else_an_event_may_say(self, api: Api) -> None:
        api.fabric.events = [RELAYED, WOULD]
        api.fabric.summary = fabric_pb2.WatchSummary(last=True)
        first, second, closing = api.run("watch").stdout.splitlines()
        assert " ".join(first.split()) == (
            "22:13:20.123Z lwf_unknown_hint fab0 out ? > ? frame 300 "
            f"lwf {'44' * 8} > {'55' * 8} payload 100 vlan 12"
        )
        assert second.split()[1] == "would_drop:no_credit"
        assert second.endswith("[a rule]")
        assert closing == "nothing was counted"

    def test_sums_of_one_cell(self, api: Api) -> None:
        """They are of all cells, and that is said."""
        api.fabric.summary = fabric_pb2.WatchSummary()
        api.fabric.summary.CopyFrom(SUMMARY)
        api.fabric.summary.of_all_cells = True
        closing, remark = api.run("watch", "--cell", "left").stdout.splitlines()
        assert closing == SUMMARY_LINE
        assert "frames of all cells" in remark

    def test_lines_of_json(self, api: Api) -> None:
        api.fabric.events = [BAD_TAG, SHORT]
        result = api.run("watch", "--json")
        first, second, closing = (json.loads(line) for line in result.stdout.splitlines())
        assert closing == {
            "summary": {
                "reasons": [{"reason": "bad_tag", "counted": 9, "told": 1, "suppressed": 8}],
                "last": True,
                "of_all_cells": False,
            }
        }
        assert first == {
            "time_unix_ns": TIME,
            "reason": "bad_tag",
            "interface": "fab0",
            "session_id": 7,
            "src": "11" * 16,
            "dst": "22" * 16,
            "src_name": "left",
            "dst_name": "",
            "flow": 1,
            "seq": 99,
            "flags": 0x8008,
            "payload_len": 1408,
            "frame_len": 1486,
            "head": HEAD.hex(),
            "suppressed": 0,
            "direction": "arriving",
            "would_drop": False,
            "rule": "header key of session 7",
            "lwf_source": "",
            "lwf_destination": "",
            "vlan": None,
        }
        assert (second["src"], second["suppressed"]) == (None, 3)

    def test_what_is_asked_for(self, api: Api) -> None:
        api.run("watch", "--reason", "replay", "--reason", "bad_tag", "--cell", "left")
        api.run("watch", "--cell", "33" * 16)
        api.run("watch")
        assert api.fabric.watched == [
            fabric_pb2.WatchEventsRequest(
                reasons=["replay", "bad_tag"], cell=cells_pb2.CellRef(name="left")
            ),
            fabric_pb2.WatchEventsRequest(
                cell=cells_pb2.CellRef(id=common_pb2.CellId(value=b"\x33" * 16))
            ),
            fabric_pb2.WatchEventsRequest(),
        ]

    def test_refused(self, api: Api) -> None:
        api.fabric.failure = (grpc.StatusCode.INVALID_ARGUMENT, "reasons: 'x' is none of replay")
        result = api.run("watch", "--reason", "x")
        assert result.exit_code == 2
        assert result.stderr == (
            "assent: reasons: 'x' is none of replay (INVALID_ARGUMENT); correct it and try again\n"
        )

    def test_interrupted(self, api: Api, tmp_path: Path) -> None:
        """The rest is told, then how it adds up: this is how a watch ends."""
        code, out, err = interrupt(api, "watch", shown=tmp_path / "stdout")
        assert (code, err) == (0, "")
        event, closing = out.splitlines()
        assert "session 7" in event
        assert closing == SUMMARY_LINE

    def test_colour_on_a_terminal_for_the_reason_alone(self, api: Api) -> None:
        api.fabric.events = [BAD_TAG]
        shown = on_a_terminal(api, "watch")
        assert shown.count("\x1b") == 2
        assert shown.index("\x1b[31m") < shown.index("bad_tag") < shown.index("\x1b[0m")
        assert shown.index("\x1b[0m") < shown.index("fab0")

    def test_names_cannot_drive_the_terminal(self, api: Api) -> None:
        event = fabric_pb2.Event()
        event.CopyFrom(BAD_TAG)
        event.src_name = event.interface = "a\x1b[2J\nb"
        api.fabric.events = [event]
        result = api.run("watch")
        assert "\x1b" not in result.stdout
        assert len(result.stdout.splitlines()) == 2


class TestCapture:
    def test_frames_with_their_reasons(self, api: Api, tmp_path: Path) -> None:
        api.fabric.events = [BAD_TAG, SHORT]
        path = tmp_path / "x.pcapng"
        path.write_bytes(b"what was there before" * 100)
        result = api.run("capture", "-o", str(path))
        assert (result.exit_code, result.stdout) == (0, f"wrote 2 frames to {path}\n")
        buf = path.read_bytes()
        found = [(frame.data, frame.original_len) for frame in read_capture(buf)]
        assert found == [(HEAD, 1486), (HEAD[:14], 40)]
        assert f"bad_tag: left to {'22' * 8} (header key of session 7)".encode() in buf
        assert b"malformed_length: ? to ?" in buf
        assert struct.pack("<HHI", 1, 0, VERDICT_LEN) + struct.pack("<HH", 2, 4) + b"fab0" in buf

    def test_so_many_frames(self, api: Api, tmp_path: Path) -> None:
        api.fabric.events = [BAD_TAG] * 10
        api.fabric.lasting = True
        path = tmp_path / "x.pcapng"
        result = api.run("capture", "-o", str(path), "--count", "4", "--reason", "bad_tag")
        assert result.exit_code == 0
        assert len(list(read_capture(path.read_bytes()))) == 4
        assert json.loads(api.run("capture", "-o", str(path), "--count", "1", "--json").stdout) == {
            "file": str(path),
            "frames": 1,
        }
        assert api.fabric.watched[0] == fabric_pb2.WatchEventsRequest(reasons=["bad_tag"])

    @pytest.mark.parametrize(
        ("args", "code", "said"), [((), 0, "wrote 1 frames"), (("--count", "2"), 130, "")]
    )
    def test_interrupted(
        self, api: Api, tmp_path: Path, args: tuple[str, ...], code: int, said: str
    ) -> None:
        path = tmp_path / "x.pcapng"
        found = interrupt(api, "capture", "-o", str(path), *args, shown=path)
        assert (found[0], found[2]) == (code, "")
        assert found[1].startswith(said)
        assert len(list(read_capture(path.read_bytes()))) == 1

    def test_nothing_came(self, api: Api, tmp_path: Path) -> None:
        path = tmp_path / "x.pcapng"
        assert api.run("capture", "-o", str(path)).stdout == f"wrote 0 frames to {path}\n"
        assert list(read_capture(path.read_bytes())) == []

    def test_refused_leaves_the_file_alone(self, api: Api, tmp_path: Path) -> None:
        api.fabric.failure = (grpc.StatusCode.NOT_FOUND, "cell: there is no x")
        old, new = tmp_path / "old", tmp_path / "new"
        old.write_bytes(b"dear")
        for path in (old, new):
            assert api.run("capture", "-o", str(path), "--cell", "x").exit_code == 1
        assert old.read_bytes() == b"dear"
        assert not new.exists()

    def test_cannot_be_written(self, api: Api, tmp_path: Path) -> None:
        result = api.run("capture", "-o", str(tmp_path / "no" / "x"))
        assert result.exit_code == 1
        assert "No such file or directory" in result.stderr
        assert api.fabric.watched == []


class TestExplain:
    def capture(self, path: Path, *frames: bytes) -> Path:
        writer = PcapngWriter("test")
        path.write_bytes(
            writer.begin() + b"".join(writer.frame("x", 0, data, len(data)) for data in frames)
        )
        return path

    OURS = bytes(12) + b"\x88\xb5" + bytes(200)
    THEIRS = bytes(12) + b"\x08\x00" + bytes(20)

    def test_for_people(self, api: Api, tmp_path: Path) -> None:
        file = self.capture(tmp_path / "x", self.OURS, self.THEIRS)
        result = api.run("explain", str(file))
        assert result.exit_code == 0
        assert result.stdout.splitlines() == [
            f"0: drop, unknown_source (decided by: source), {'11' * 16} > right, flow 1, seq 5",
            "    locals[22]: number 0",
            "    sessions[11 to 22]: no such entry",
            "1: pass, not_fabric (decided by: ethertype), ethertype 0x0800",
        ]

    def test_for_programs(self, api: Api, tmp_path: Path) -> None:
        file = self.capture(tmp_path / "x", self.OURS, self.THEIRS)
        first, second = json.loads(api.run("explain", str(file), "--json").stdout)
        assert first["consulted"][1] == {
            "map": "sessions",
            "key": "11 to 22",
            "found": False,
            "says": "",
        }
        del first["consulted"]
        assert first == {
            "index": 0,
            "ethertype": 0x88B5,
            "verdict": "drop",
            "reason": "unknown_source",
            "stage": "source",
            "src_cell": "11" * 16,
            "dst_cell": "22" * 16,
            "src_name": "",
            "dst_name": "right",
            "flow": 1,
            "seq": 5,
            "would_drop": "",
        }
        assert (second["index"], second["src_cell"], second["flow"]) == (1, None, None)

    def test_only_the_beginnings_are_sent(self, api: Api, tmp_path: Path) -> None:
        api.run("explain", str(self.capture(tmp_path / "x", self.OURS)))
        assert api.fabric.frames == [
            [fabric_pb2.Frame(data=self.OURS[:VERDICT_LEN], original_len=len(self.OURS))]
        ]

    def test_many_frames_take_several_calls(self, api: Api, tmp_path: Path) -> None:
        assert _CALL_MAX == FRAMES_MAX
        file = self.capture(tmp_path / "x", *[b""] * (_CALL_MAX + 2))
        found = json.loads(api.run("explain", str(file), "--json").stdout)
        assert [each["index"] for each in found] == list(range(_CALL_MAX + 2))
        assert [len(call) for call in api.fabric.frames] == [_CALL_MAX, 2]

    def test_no_frames(self, api: Api, tmp_path: Path) -> None:
        file = self.capture(tmp_path / "x")
        assert api.run("explain", str(file)).stdout == f"{file} holds no frames\n"
        assert json.loads(api.run("explain", str(file), "--json").stdout) == []

    @pytest.mark.parametrize(
        ("content", "problem"),
        [(b"", "is empty"), (b"GIF89a", "is neither"), (b"\xd4\xc3\xb2\xa1", "ends within its")],
    )
    def test_what_is_no_capture(
        self, api: Api, tmp_path: Path, content: bytes, problem: str
    ) -> None:
        file = tmp_path / "x"
        file.write_bytes(content)
        result = api.run("explain", str(file))
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith(f"assent: {file}: {problem}")
        assert len(result.stderr.splitlines()) == 1

    def test_refused(self, api: Api, tmp_path: Path) -> None:
        api.fabric.failure = (grpc.StatusCode.RESOURCE_EXHAUSTED, "frames: too many")
        result = api.run("explain", str(self.capture(tmp_path / "x", self.OURS)))
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("assent: frames: too many (RESOURCE_EXHAUSTED); ")

    @pytest.mark.parametrize("name", ["absent", "."])
    def test_what_is_no_file(self, api: Api, tmp_path: Path, name: str) -> None:
        result = api.run("explain", str(tmp_path / name))
        assert result.exit_code == 1
        assert len(result.stderr.splitlines()) == 1


class TestTop:
    def test_plain_rows(self, api: Api) -> None:
        result = api.run("top", "--count", "2", "--interval", "0.05")
        assert result.exit_code == 0
        rows = [
            " ".join(line.split()[1:]).split(" frames ")[0] for line in result.stdout.splitlines()
        ]
        assert rows[:5] == [
            "reason admitted 2000",
            "reason bad_tag 5",
            "reason out: no_credit 0",
            "interface fab0 in 2005",
            f"cells {'11' * 8} > right 18",
        ]
        assert rows[5] == "cells (others) > 1,200 pairs 1"
        assert rows[6] == "reason admitted 3000"
        assert api.fabric.counters_asked[0].interfaces
        assert api.fabric.counters_asked[0].pairs_max > 0

    def test_lines_of_json(self, api: Api) -> None:
        result = api.run("top", "--count", "1", "--interval", "0.05", "--all", "--json")
        (rows,) = (json.loads(line) for line in result.stdout.splitlines())
        reasons = [row["name"] for row in rows if row["kind"] == "reason"]
        assert reasons == ["admitted", "bad_tag", "replay", "out: no_credit"]
        assert 0 < rows[0]["frames_s"] <= 1000 / 0.05
        assert rows[1]["frames_s"] == rows[2]["frames_s"] == 0
        assert (rows[1]["dropped"], rows[1]["suppressed"], rows[3]["would_drop"]) == (5, 3, 6)

    def test_live_on_a_terminal(self, api: Api) -> None:
        shown = on_a_terminal(api, "top", "--count", "2", "--interval", "0.05")
        assert "FRAMES/S" in shown
        assert "3,000" in shown
        assert "fab0 in" in shown

    def test_rates(self) -> None:
        def look(**frames: int) -> list[Row]:
            lines = (fabric_pb2.Counter(reason=r, frames=n, bytes=n) for r, n in frames.items())
            return rows_of(fabric_pb2.Counters(counters=lines), everything=False)

        moved = rates(look(admitted=10, replay=9), look(admitted=20, replay=4, no_credit=1), 2.0)
        assert moved == [
            Row("reason", "admitted", 20, 20, 0, 0, 0, 5.0, 5.0, 0.0),
            Row("reason", "replay", 4, 4, 4, 0, 0, 2.0, 2.0, 2.0),
            Row("reason", "no_credit", 1, 1, 1, 0, 0, 0.5, 0.5, 0.5),
        ]


class TestCounters:
    def test_tables(self, api: Api) -> None:
        result = api.run("counters", "--pairs", "3")
        assert result.exit_code == 0
        lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
        assert lines == [
            "REASON WAY FRAMES BYTES WOULD_DROP EVENTS SUPPRESSED",
            "admitted in 1,000 100,000 0 0 0",
            "bad_tag in 5 500 0 2 3",
            "no_credit out 0 0 6 0 0",
            "",
            "INTERFACE WAY ADMITTED DROPPED WOULD_DROP EVENTS SUPPRESSED REASONS",
            "fab0 in 1,000 5 0 2 3 bad_tag 5",
            "",
            "REMOTE LOCAL ADMITTED BYTES DROPPED WOULD_DROP REASONS",
            f"{'11' * 8} right 7 700 4 1 replay 4",
            "(others) 1,200 pairs 1 0 0 0 -",
        ]
        assert api.fabric.counters_asked == [
            fabric_pb2.GetCountersRequest(interfaces=True, pairs_max=3)
        ]

    def test_json(self, api: Api) -> None:
        shown = json.loads(api.run("counters", "--json").stdout)
        assert [line["reason"] for line in shown["counters"]] == ["admitted", "bad_tag"]
        assert shown["pairs"][0]["reasons"] == [{"reason": "replay", "frames": 4}]
        everything = json.loads(api.run("counters", "--json", "--all").stdout)
        assert [line["reason"] for line in everything["counters"]][2] == "replay"
        assert shown["other_pairs"] == 1200

    def test_ranked(self) -> None:
        assert ranked({"a": 1, "b": 3000, "c": 0}) == "b 3,000, a 1"
        assert ranked(dict.fromkeys("abcdef", 1)).endswith(", 2 more reasons")
        assert ranked({}) == ""
