# SPDX-License-Identifier: Apache-2.0
"""What the scenarios came to, as pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from assent.errors import FailedPrecondition
from assent.sim.report import Result, duration
from assent.sim.run import Outcome
from assent.sim.scenarios import Scenario
from assent.sim.world import SECOND

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_INK: Final = "#22303c"
_FAINT: Final = "#8a97a3"
_COLOURS: Final = {"Assent": "#0b6e99", "TCP": "#d1622b", "TCP, patient": "#d1622b"}
_STYLES: Final = {"Assent": "-", "TCP": "-", "TCP, patient": (0, (4, 2))}
_DOTS_PER_INCH: Final = 160
_UNITS: Final = ((3600e9, "h"), (60e9, "min"), (1e9, "s"), (1e6, "ms"), (1e3, "µs"))
# Buckets of throughput on either side that a mean takes in at least.
_REACH: Final = 3
# How far to the right of what the fabric needed the picture goes, for the other to be seen.
_BEYOND: Final = 2.2

_LOOK: Final[dict[str, Any]] = {
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "axes.edgecolor": _FAINT,
    "axes.labelcolor": _INK,
    "axes.titlecolor": _INK,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6eaee",
    "grid.linewidth": 0.8,
    "xtick.color": _FAINT,
    "ytick.color": _FAINT,
    "xtick.labelcolor": _INK,
    "ytick.labelcolor": _INK,
    "text.color": _INK,
    "legend.frameon": False,
    "lines.linewidth": 1.8,
    "figure.facecolor": "white",
}


def draw(results: Sequence[Result], distances: Sequence[Result], folder: Path) -> list[Path]:
    """Writes the pictures; returns where they are.

    Raises:
        FailedPrecondition: matplotlib is not installed.
    """
    try:
        import matplotlib as mpl
    except ImportError as error:
        raise FailedPrecondition(
            "pictures need matplotlib: pip install 'assent[sim]', or leave them out"
        ) from error
    mpl.use("Agg")
    made = []
    with mpl.rc_context(_LOOK):
        if results:
            made.append(_save(_small_ones(results, _THROUGHPUT), folder / "throughput.png"))
            made.append(_save(_small_ones(results, _PROGRESS), folder / "progress.png"))
            made.append(_save(_times(results), folder / "times.png"))
        if distances:
            made.append(_save(_by_distance(distances), folder / "distance.png"))
    return made


def _save(figure: Figure, path: Path) -> Path:
    # Without the time of day in the file, the same run makes the same picture.
    figure.savefig(
        path, dpi=_DOTS_PER_INCH, metadata={"Software": None}, pil_kwargs={"optimize": True}
    )
    return path


def _figure(*size: float, **grid: Any) -> tuple[Figure, Any]:
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(**grid, figsize=size, layout="constrained")
    return figure, axes


def _unit(ns: float) -> tuple[float, str]:
    return next(((one, name) for one, name in _UNITS if ns >= 2 * one), _UNITS[-1])


# ---- one small picture a scenario


@dataclass(frozen=True, slots=True)
class _Kind:
    title: str
    draw: Callable[[Axes, Outcome, Scenario, float], None]
    levels: Mapping[float, str]
    note_at: float


def _small_ones(results: Sequence[Result], kind: _Kind) -> Figure:
    rows = -(-(len(results) + 1) // 2)
    figure, axes = _figure(10.5, 2.6 * rows + 0.4, nrows=rows, ncols=2, squeeze=False)
    for axis, result in zip(axes.flat, results, strict=False):
        _small_one(axis, result, kind)
    _legend(axes.flat[len(results)], results)
    for axis in axes.flat[len(results) :]:
        axis.set_axis_off()
    figure.suptitle(kind.title, x=0.01, ha="left", fontsize=13, fontweight="bold")
    return figure


def _small_one(axis: Axes, result: Result, kind: _Kind) -> None:
    scenario = result.scenario
    shown = [one for one in result.outcomes if one.delivered]
    end = _end(result, shown)
    scale, unit = _unit(end)
    axis.axhline(100, color=_FAINT, linewidth=1, linestyle=":")
    for begin, until in scenario.outages:
        axis.axvspan(begin / scale, until / scale, color="#eceff2", zorder=0, linewidth=0)
        axis.text(
            (begin + until) / 2 / scale, 97, "link out", ha="center", va="top",
            color=_FAINT, fontsize=8, rotation=90,
        )  # fmt: skip
    for outcome in shown:
        kind.draw(axis, outcome, scenario, scale)
    axis.set_title(scenario.title)
    axis.set_xlim(0, end / scale)
    axis.set_ylim(0, 112)
    axis.set_xlabel(unit, loc="right", labelpad=-2)
    axis.set_yticks(list(kind.levels), list(kind.levels.values()))
    axis.text(
        0.985, kind.note_at, "\n".join(_note(one) for one in result.outcomes),
        transform=axis.transAxes, ha="right", va="center", fontsize=8.5,
        bbox={"facecolor": "white", "edgecolor": "none", "alpha": 0.85, "pad": 2},
    )  # fmt: skip


def _end(result: Result, shown: Sequence[Outcome]) -> float:
    """How far the picture goes: to the last one's end, or far enough to see that it goes on."""
    last = max((one.time for one in shown), default=0)
    ours = result.outcomes[0].time or result.scenario.bound
    return min(max(1.08 * last, 1.3 * result.scenario.bound), _BEYOND * ours)


def _note(outcome: Outcome) -> str:
    return f"{outcome.protocol}: {duration(outcome.time) if outcome.time else outcome.failure}"


def _legend(axis: Axes, results: Sequence[Result]) -> None:
    from matplotlib.lines import Line2D

    protocols = dict.fromkeys(one.protocol for result in results for one in result.outcomes)
    lines = [
        Line2D([], [], color=_COLOURS[name], linestyle=_STYLES[name], label=name)
        for name in protocols
    ]
    axis.legend(handles=lines, loc="center", fontsize=11, handlelength=3.5, labelspacing=0.9)


def _draw_throughput(axis: Axes, outcome: Outcome, scenario: Scenario, scale: float) -> None:
    full = scenario.rate * outcome.sample / (8 * SECOND)
    reach = max(round(scenario.rtt / outcome.sample / 2), _REACH)
    times = [(at + 0.5) * outcome.sample / scale for at in range(len(outcome.samples))]
    shares = [100 * read / full for read in _mean(outcome.samples, reach)]
    if outcome.time:
        times[-1:] = [outcome.time / scale] * 2
        shares.append(0)
    _line(axis, outcome, times, shares)


def _draw_progress(axis: Axes, outcome: Outcome, scenario: Scenario, scale: float) -> None:
    whole = scenario.senders * scenario.carried
    times = [at * outcome.sample / scale for at in range(len(outcome.samples) + 1)]
    shares = [100 * read / whole for read in accumulate(outcome.samples, initial=0)]
    if outcome.time:
        times[-1] = outcome.time / scale
    _line(axis, outcome, times, shares)


def _line(axis: Axes, outcome: Outcome, times: list[float], shares: list[float]) -> None:
    colour = _COLOURS[outcome.protocol]
    axis.plot(times, shares, color=colour, linestyle=_STYLES[outcome.protocol])
    if outcome.protocol == "Assent":
        axis.fill_between(times, shares, color=colour, alpha=0.10, linewidth=0)


def _mean(samples: Sequence[int], reach: int) -> list[float]:
    """Of each bucket and so many on either side.

    A gap holds back what lies behind it, and then all of that is read at once.
    """
    sums = list(accumulate(samples, initial=0))
    made = []
    for at in range(len(samples)):
        begin, end = max(at - reach, 0), min(at + reach + 1, len(samples))
        made.append((sums[end] - sums[begin]) / (end - begin))
    return made


_THROUGHPUT: Final = _Kind(
    "What the reader gets, averaged over a round trip or more",
    _draw_throughput,
    {0: "0", 50: "50 %", 100: "link"},
    0.70,
)
_PROGRESS: Final = _Kind(
    "How much of the file is read", _draw_progress, {0: "0", 50: "50 %", 100: "100 %"}, 0.22
)


# ---- time to completion, of what is possible


def _times(results: Sequence[Result]) -> Figure:
    figure, axis = _figure(10.5, 0.72 * len(results) + 1.6)
    height = 0.34
    for row, result in enumerate(results):
        for place, outcome in enumerate(result.outcomes[:1] + result.outcomes[-1:]):
            at = row + (place - 0.5) * height
            if not outcome.time:
                axis.text(1.05, at, outcome.failure, va="center", fontsize=8.5)
                continue
            ratio = outcome.time / result.scenario.bound
            axis.barh(at, ratio, height * 0.92, color=_COLOURS[outcome.protocol])
            axis.text(
                ratio * 1.04, at, f"{ratio:.2f} x   {outcome.protocol}, {duration(outcome.time)}",
                va="center", fontsize=8.5,
            )  # fmt: skip
    axis.axvline(1, color=_INK, linewidth=1)
    axis.set_xscale("log")
    most = max(one.time / result.scenario.bound for result in results for one in result.outcomes)
    axis.set_xlim(0.9, max(most, 2) * 3.5)
    axis.set_xticks([1, 2, 5, 10, 20, 50], ["1 x", "2 x", "5 x", "10 x", "20 x", "50 x"])
    axis.set_xticks([], minor=True)
    axis.set_yticks(range(len(results)), [result.scenario.title for result in results])
    axis.invert_yaxis()
    axis.grid(visible=False, axis="y")
    axis.set_xlabel("time to completion, in multiples of the least possible")
    axis.set_title("How near to what the link allows", fontsize=13, pad=10)
    return figure


# ---- time to completion by distance


def _by_distance(distances: Sequence[Result]) -> Figure:
    figure, axis = _figure(10.5, 5.6)
    far = [result.scenario.rtt / SECOND for result in distances]
    axis.plot(
        far, [result.scenario.bound / SECOND for result in distances],
        color=_FAINT, linestyle=":", linewidth=1.6, label="least possible",
    )  # fmt: skip
    for place, first in enumerate(distances[0].outcomes):
        points = [
            (at, result.outcomes[place].time / SECOND)
            for at, result in zip(far, distances, strict=True)
            if result.outcomes[place].time
        ]
        axis.plot(
            [x for x, _ in points], [y for _, y in points], label=first.protocol,
            color=_COLOURS[first.protocol], linestyle=_STYLES[first.protocol],
            marker="o", markersize=4.5, markeredgewidth=0,
            zorder=4 if first.protocol == "Assent" else 3,
        )  # fmt: skip
    _mark_failures(axis, distances)
    axis.set_xscale("log")
    axis.set_yscale("log")
    axis.set_xticks(far, [result.scenario.name for result in distances], rotation=35, ha="right")
    axis.set_xticks([], minor=True)
    seconds = [10, 60, 600, 3600, 6 * 3600]
    axis.set_yticks(seconds, ["10 s", "1 min", "10 min", "1 h", "6 h"])
    axis.set_yticks([], minor=True)
    axis.set_xlabel("round trip")
    axis.set_ylabel("until the last byte is read")
    axis.legend(loc="upper left")
    axis.set_title("10 MiB at 10 Mbit/s with 0.1 % loss, ever farther away", fontsize=13, pad=10)
    return figure


def _mark_failures(axis: Axes, distances: Sequence[Result]) -> None:
    """Where plain TCP stops, it says why."""
    reached = [result for result in distances if result.outcomes[1].time]
    failed = [result for result in distances if not result.outcomes[1].time]
    if not reached or not failed:
        return
    last = reached[-1]
    axis.annotate(
        f"beyond, TCP {failed[0].outcomes[1].failure}",
        (last.scenario.rtt / SECOND, last.outcomes[1].time / SECOND),
        xytext=(-14, 34), textcoords="offset points", ha="right",
        fontsize=9, color=_COLOURS["TCP"],
        arrowprops={"arrowstyle": "-", "color": _COLOURS["TCP"], "linewidth": 0.8},
    )  # fmt: skip
