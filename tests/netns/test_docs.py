"""The examples of docs/transport.md run as they stand there."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.netns, pytest.mark.timeout(120)]

GUIDE = Path(__file__).parents[2] / "docs" / "transport.md"
SAID = ["b'HELLO'\n", "b'scattered over two buffers'\n1000 came back\n", "b'there, and back'\n"]


def examples() -> list[tuple[str, str]]:
    """Pairs of what right and what left runs."""
    found = re.findall(r"```python (left|right)\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    sides = [side for side, _ in found]
    assert sides == ["right", "left"] * (len(found) // 2)
    return [(right, left) for (_, right), (_, left) in zip(found[::2], found[1::2], strict=True)]


def test_every_example_of_the_guide_says_what_it_should(pair):
    assert len(examples()) == len(SAID)
    for (right, left), expected in zip(examples(), SAID, strict=True):
        with start(pair, "right", right) as serving:
            try:
                # There is nothing to see when an application listens, so the other knocks.
                said = ""
                for _ in range(20):
                    with start(pair, "left", left) as asking:
                        said, problem = asking.communicate(timeout=60)
                    if "nobody listens" not in problem:
                        break
                assert said == expected, problem
                assert serving.wait(60) == 0
            finally:
                serving.kill()


def start(pair, name: str, code: str) -> subprocess.Popen[str]:
    node = pair[name]
    return subprocess.Popen(
        node.host.command(sys.executable, "-c", code),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ASSENT_SOCKET": str(node.socket)},
    )
