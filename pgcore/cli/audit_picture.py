"""The picture of `pgcore audit --all`: bias against variance."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pgcore.cli.audit import Row
    from pgcore.exact.audit import Audit

__all__ = ["draw"]

# Colours that colour-blind readers can tell apart (Okabe and Ito), each with a shape of its own.
KINDS = {
    "on-policy, no critic": ("#0072B2", "o"),
    "on-policy, random critic": ("#D55E00", "s"),
    "off-policy": ("#009E73", "^"),
}
GRID, TEXT, LEADER = "#e5e5e5", "#333333", "#999999"

# A relative bias below this is rounding.
EXACT = 1e-9

# Where a label may stand, in points from its dot: beside it first, then ever farther above and below.
PLACES = [(8, 0, "left"), (-8, 0, "right")] + [
    (across, sign * away, side)
    for away in range(10, 90, 8)
    for sign in (1, -1)
    for across, side in ((9, "left"), (-9, "right"), (22, "left"), (-22, "right"))
]


def draw(rows: Sequence[Row], form: str) -> bytes:
    """Return a picture of relative bias and of variance relative to reinforce's, one dot an estimator.

    Gradients of losses that are means over steps count times the expected length of an episode.

    Args:
        rows: With an audit each; one is labelled "reinforce".
        form: "png" or "svg"; the same rows give the same bytes.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    audits = {row.label: row.audit for row in rows if row.audit is not None}
    first = audits.get("reinforce") or next(iter(audits.values()))
    points = {
        label: (audit.rescaled, audit.variance * audit.factor**2 / (first.variance * first.factor**2), kind_of(audit))
        for label, audit in audits.items()
    }
    with mpl.rc_context({"svg.hashsalt": "pgcore", "svg.fonttype": "none"}):
        figure = Figure(figsize=(9.6, 5.4), dpi=130, layout="constrained")
        canvas: Any = (FigureCanvasSVG if form == "svg" else FigureCanvasAgg)(figure)
        unbiased, biased = figure.subplots(1, 2, sharey=True, width_ratios=(1, 1.9))
        for axes, inside in ((unbiased, False), (biased, True)):
            shown = {label: point for label, point in points.items() if (point[0] >= EXACT) is inside}
            plot(axes, shown, exact=not inside)
        dress(figure, unbiased, biased, first)
        figure.draw_without_rendering()
        taken: list[Any] = []
        for axes, inside in ((unbiased, False), (biased, True)):
            shown = {label: point for label, point in points.items() if (point[0] >= EXACT) is inside}
            name_dots(axes, {label: (point[0] if inside else 0.0, point[1]) for label, point in shown.items()}, taken)
        figure.set_layout_engine("none")
        buffer = io.BytesIO()
        if form == "svg":
            canvas.print_svg(buffer, metadata={"Date": None})
        else:
            canvas.print_png(buffer)
    return buffer.getvalue()


def kind_of(audit: Audit) -> str:
    """Return which of `KINDS` an estimator is."""
    if not audit.estimator.claims.on_policy:
        return "off-policy"
    return "on-policy, random critic" if audit.estimator.claims.needs_critic else "on-policy, no critic"


def plot(axes: Any, points: dict[str, tuple[float, float, str]], *, exact: bool) -> None:
    """Draw the dots of one panel."""
    for kind, (colour, marker) in KINDS.items():
        own = [(0.0 if exact else bias, variance) for bias, variance, other in points.values() if other == kind]
        if own:
            x, y = zip(*own, strict=True)
            axes.scatter(x, y, s=46, color=colour, marker=marker, edgecolors="white", linewidths=0.8, zorder=3)


def dress(figure: Any, unbiased: Any, biased: Any, first: Audit) -> None:
    """Set titles, scales and the legend."""
    from matplotlib.lines import Line2D

    episodes = f"batches of {first.batch} episodes" if first.batch > 1 else "single episodes"
    figure.suptitle(f"Exact bias and variance, {episodes} of one small random process", fontsize=12, x=0.01, ha="left")
    unbiased.set_yscale("log")
    unbiased.set_ylabel("variance, relative to reinforce")
    unbiased.set_xlim(-1, 1)
    unbiased.set_xticks([0], ["exactly 0"])
    biased.set_xscale("log")
    biased.set_xlabel("relative bias of the gradient")
    biased.margins(x=0.25)
    unbiased.margins(y=0.12)
    unbiased.set_title("unbiased", loc="left", fontsize=10, color=TEXT)
    biased.set_title("biased", loc="left", fontsize=10, color=TEXT)
    plain = "{:g}".format
    unbiased.yaxis.set_major_formatter(lambda value, _: plain(value))
    biased.xaxis.set_major_formatter(lambda value, _: plain(value))
    for axes in (unbiased, biased):
        axes.axhline(1.0, color=LEADER, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    handles = [
        Line2D([], [], linestyle="", marker=marker, color=colour, markeredgecolor="white", markersize=8, label=kind)
        for kind, (colour, marker) in KINDS.items()
    ]
    figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False, fontsize=9)


def name_dots(axes: Any, points: dict[str, tuple[float, float]], taken: list[Any]) -> None:
    """Write each label at the first place where it covers neither a dot nor another label."""
    from matplotlib.transforms import Bbox

    figure = axes.figure
    renderer = figure.canvas.get_renderer() if hasattr(figure.canvas, "get_renderer") else None
    dots = [axes.transData.transform(point) for point in points.values()]
    size = 6 * figure.dpi / 72
    frame = axes.get_window_extent(renderer)
    for (label, point), dot in zip(
        sorted(points.items(), key=lambda item: -item[1][1]),
        sorted(dots, key=lambda dot: -dot[1]),
        strict=True,
    ):
        for across, up, side in places():
            text = axes.annotate(
                label,
                point,
                (across, up),
                textcoords="offset points",
                ha=side,
                va="center",
                fontsize=8.5,
                color=TEXT,
                arrowprops={"arrowstyle": "-", "color": LEADER, "linewidth": 0.6, "shrinkA": 0, "shrinkB": 4} if up else None,
            )
            box = text.get_tightbbox(renderer) if not up else Bbox.union([_text_box(text, renderer)])
            covered = any(
                box.x0 - size < x < box.x1 + size and box.y0 - size * 0.8 < y < box.y1 + size * 0.8
                for x, y in dots
                if (x, y) != tuple(dot)
            )
            if box.x0 >= frame.x0 and box.x1 <= frame.x1 + 4 and not covered and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def places() -> Iterator[tuple[int, int, str]]:
    """Yield where a label may stand, the nearest first."""
    yield from PLACES


def _text_box(text: Any, renderer: Any) -> Any:
    from matplotlib.text import Text

    return Text.get_window_extent(text, renderer)
