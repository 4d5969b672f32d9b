"""`assent probe` without a kernel: descriptions read, output shown, what is missing named."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from assent.cli import probe
from assent.cli.main import app
from assent.probe import collector, formats

FORMAT = """name: kfree_skb
ID: 2310
format:
\tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;

\tfield:void * location;\toffset:16;\tsize:8;\tsigned:0;
\tfield:unsigned short protocol;\toffset:32;\tsize:2;\tsigned:0;
\tfield:enum skb_drop_reason reason;\toffset:36;\tsize:4;\tsigned:0;

print fmt: "reason: %s", __print_symbolic(REC->reason, { 2, "NOT_SPECIFIED" }, { -1, "ODD" })
"""


def test_a_description_gives_places_and_names():
    point = formats.parse("skb:kfree_skb", FORMAT)
    assert point.fields["protocol"] == (32, 2)
    assert point.fields["reason"] == (36, 4)
    assert point.names == {2: "NOT_SPECIFIED", -1: "ODD"}


def test_a_tracepoint_that_the_kernel_lacks_is_none(tmp_path: Path):
    assert formats.read("skb:no_such", tmp_path) is None


def test_the_program_asks_for_fabric_frames_alone_where_the_event_says_what_they_are():
    text = collector.source({"skb:kfree_skb": formats.parse("skb:kfree_skb", FORMAT)})
    assert "if (at(ctx, 32, 2) != 34997) return 0;" in text
    assert "one.a = at(ctx, 16, 8);" in text
    assert "one.b = at(ctx, 36, 4);" in text


def test_without_bcc_it_says_what_to_install(tmp_path: Path):
    """A Python that has no BCC, and headers or none: the line names one or the other."""
    done = subprocess.run(
        [sys.executable, "-I", collector.__file__, "1"], capture_output=True, text=True, check=False
    )
    assert done.returncode == collector.MISSING
    assert len(done.stderr.splitlines()) == 1
    assert (
        "python3-bpfcc" in done.stderr or "linux-headers-" in done.stderr or "root" in done.stderr
    )


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch):
    def answer(returncode: int, stdout: str, stderr: str) -> None:
        done = subprocess.CompletedProcess([], returncode, stdout, stderr)
        monkeypatch.setattr(probe.subprocess, "run", lambda *_, **__: done)

    return answer


def test_deaths_are_shown_as_a_table_and_as_json(answering):
    row = {"tracepoint": "skb:kfree_skb", "where": "f", "reason": "no_socket", "count": 7}
    answering(0, json.dumps({"tracepoints": ["skb:kfree_skb"], "deaths": [row]}), "watching")
    assert "no_socket" in CliRunner().invoke(app, ["probe"]).stdout
    shown = json.loads(CliRunner().invoke(app, ["probe", "--json"]).stdout)
    assert shown["deaths"] == [row]


def test_what_is_missing_is_one_line(answering):
    answering(3, "", "the BPF Compiler Collection is missing: install python3-bpfcc")
    result = CliRunner().invoke(app, ["probe"])
    assert result.exit_code == 1
    expected = "assent: the BPF Compiler Collection is missing; install python3-bpfcc"
    assert expected in result.output
