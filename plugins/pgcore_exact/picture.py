"""The picture of `pgcore audit --all`: bias against variance."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pgcore.errors import MDPError

if TYPE_CHECKING:
    from pgcore_exact.audit import Audit, Row

__all__ = ["draw"]

Point = tuple[float, float, str]  # relative bias or place of the kind, relative variance, kind

# Colours that colour-blind readers can tell apart (Okabe and Ito), each with a shape of its own.
KINDS = {
    "on-policy, no critic": ("#0072B2", "o"),
    "on-policy, random critic": ("#D55E00", "s"),
    "off-policy": ("#009E73", "^"),
}
GRID, TEXT, RULE = "#e5e5e5", "#333333", "#999999"

# A relative bias below this is rounding.
EXACT = 1e-9

# Where a label may stand, in points from its dot: beside it first, then ever farther away.
BESIDE = 8
FARTHER = [
    (sign_x * across, sign_y * away, "left" if sign_x > 0 else "right")
    for away in range(0, 130, 7)
    for across in (10, 16, 24, 36, 48, 64)
    for sign_y in (1, -1)
    for sign_x in (1, -1)
]
PLACES = [
    (BESIDE, 0, "left"),
    (-BESIDE, 0, "right"),
    *sorted(FARTHER, key=lambda place: math.hypot(place[0], 1.5 * place[1])),
]
LINE = 11.5  # points from one label of a list to the next
APART = 0.07  # of the width of the unbiased's panel, from one kind's dots to the next
LIST = 58.0  # points from the first kind's dots to a list


def draw(rows: Sequence[Row], form: str) -> bytes:
    """Return a picture of relative bias and of variance relative to reinforce's, one dot an estimator.

    Gradients of losses that are means over steps count times the expected length of an episode.

    Args:
        rows: Those that have an audit, a variance and a finite bias are drawn, and others named below; one is labelled "reinforce".
        form: "png" or "svg"; the same rows give the same bytes.

    Raises:
        MDPError: no row can be drawn.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    audits = {
        row.label: row.audit
        for row in rows
        if row.audit is not None and row.audit.variance > 0 and math.isfinite(row.audit.rescaled)
    }
    if not audits:
        raise MDPError(
            "audit: expected an estimator that can be drawn, got none; see the errors of the table"
        )
    first = audits.get("reinforce") or next(iter(audits.values()))
    points = merged(
        {
            label: (
                audit.rescaled,
                audit.variance * audit.factor**2 / (first.variance * first.factor**2),
                kind_of(audit),
            )
            for label, audit in audits.items()
        }
    )
    exact = {
        label: (APART * list(KINDS).index(kind), variance, kind)
        for label, (bias, variance, kind) in points.items()
        if bias < EXACT
    }
    others = {label: point for label, point in points.items() if label not in exact}
    with cast("Any", mpl).rc_context({"svg.hashsalt": "pgcore", "svg.fonttype": "none"}):
        figure: Any = Figure(
            figsize=(9.6, 5.4 + 0.16 * max(0, len(points) - 20)), dpi=130, layout="constrained"
        )
        canvas: Any = (FigureCanvasSVG if form == "svg" else FigureCanvasAgg)(figure)
        unbiased, biased = figure.subplots(1, 2, sharey=True, width_ratios=(1, 2))
        for axes, shown in ((unbiased, exact), (biased, others)):
            plot(axes, shown)
        dress(unbiased, biased)
        explain(
            figure,
            first,
            {kind for _, _, kind in points.values()},
            [row for row in rows if row.label not in audits],
        )
        figure.draw_without_rendering()
        figure.set_layout_engine(
            "none"
        )  # labels are placed in pixels, so nothing may move any more
        list_names(unbiased, exact)
        place_names(biased, others)
        buffer = io.BytesIO()
        if form == "svg":
            canvas.print_svg(buffer, metadata={"Date": None})
        else:
            canvas.print_png(buffer)
    return buffer.getvalue()


def kind_of(audit: Audit) -> str:
    """Return which of `KINDS` an estimator is."""
    if audit.estimator.claims.off_policy != "none":
        return "off-policy"
    return "on-policy, no critic" if audit.policy == "no critic" else "on-policy, random critic"


def merged(points: Mapping[str, Point]) -> dict[str, Point]:
    """Return the points with those that fall on one under one label."""
    found: dict[tuple[float, float, str], list[str]] = {}
    for label, (bias, variance, kind) in points.items():
        key = (float(f"{bias:.3g}") if bias >= EXACT else 0.0, float(f"{variance:.3g}"), kind)
        found.setdefault(key, []).append(label)
    return {" = ".join(shortest(labels)): points[labels[0]] for labels in found.values()}


def shortest(labels: list[str]) -> list[str]:
    """Return the labels without those of variants of an estimator that is there by itself."""
    return [
        label
        for label in labels
        if not any(label.startswith((f"{other},", f"{other} ")) for other in labels)
    ]


def plot(axes: Any, points: Mapping[str, Point]) -> None:
    """Draw the dots of one panel."""
    for bias, variance, kind in points.values():
        colour, marker = KINDS[kind]
        axes.scatter(
            [bias],
            [variance],
            s=46,
            color=colour,
            marker=marker,
            edgecolors="white",
            linewidths=0.8,
            zorder=3,
        )


def explain(figure: Any, first: Audit, kinds: set[str], others: Sequence[Row]) -> None:
    """Write the title and the legend, and name what has no place on the axes."""
    from matplotlib.lines import Line2D

    episodes = f"batches of {first.batch} episodes" if first.batch > 1 else "single episodes"
    title = f"Exact bias and variance on one small random process, {episodes} of the current policy"
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    handles = [
        Line2D(
            [],
            [],
            linestyle="",
            marker=marker,
            color=colour,
            markeredgecolor="white",
            markersize=8,
            label=kind,
        )
        for kind, (colour, marker) in KINDS.items()
        if kind in kinds
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        title=absent(others),
        title_fontsize=9,
    )


def absent(rows: Sequence[Row]) -> str | None:
    """Return which rows have no place on the axes and why, or None where there are none."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        reason = (
            "not to be audited"
            if row.audit is None
            else "the policy's gradient is always 0"
            if row.audit.variance == 0
            else "no finite relative bias"
        )
        reasons.setdefault(reason, []).append(row.label)
    named = [f"{', '.join(shortest(labels))} ({reason})" for reason, labels in reasons.items()]
    return f"without a place here: {', '.join(named)}" if named else None


def dress(unbiased: Any, biased: Any) -> None:
    """Set the axes' titles and scales."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    unbiased.set_yscale("log")
    unbiased.set_ylabel("variance, relative to reinforce")
    unbiased.set_xlim(-0.12, 1)
    unbiased.set_xticks([APART * (len(KINDS) - 1) / 2], ["exactly 0"])
    unbiased.margins(y=0.12)
    biased.set_xscale("log")
    biased.set_xlabel("relative bias of the gradient")
    biased.margins(x=0.2)
    unbiased.set_title("unbiased", loc="left", fontsize=10, color=TEXT)
    biased.set_title("biased", loc="left", fontsize=10, color=TEXT)
    for axis in (unbiased.yaxis, biased.xaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    for axes in (unbiased, biased):
        axes.axhline(1.0, color=RULE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


def list_names(axes: Any, points: Mapping[str, Point]) -> None:
    """Write labels as a list beside dots that stand above each other, each joined to its dot."""
    unit = axes.figure.dpi / 72
    order = sorted(points.items(), key=lambda item: -item[1][1])
    dots = [
        axes.transData.transform((across, variance)) / unit for _, (across, variance, _) in order
    ]
    left = float(axes.transData.transform((0.0, 1.0))[0]) / unit + LIST
    heights = [float(height) for _, height in dots]
    for (label, point), (across, height), line in zip(order, dots, spread(heights), strict=True):
        write(axes, label, point, (left - float(across), line - float(height), "left"))


def spread(heights: Sequence[float]) -> list[float]:
    """Return falling heights moved as little as need be to stand a `LINE` apart: crowds are centred on where they belong."""
    crowds: list[tuple[float, int]] = []  # middle, and how many
    for height in heights:
        crowds.append((height, 1))
        while (
            len(crowds) > 1
            and crowds[-2][0] - crowds[-1][0] < LINE * (crowds[-2][1] + crowds[-1][1]) / 2
        ):
            (upper, many), (lower, few) = crowds[-2:]
            crowds[-2:] = [((upper * many + lower * few) / (many + few), many + few)]
    return [
        middle + LINE * ((size - 1) / 2 - index) for middle, size in crowds for index in range(size)
    ]


def place_names(axes: Any, points: Mapping[str, Point]) -> None:
    """Write each label at the first place where it covers no dot, label or line to a label, and its own line none either."""
    from matplotlib.transforms import Bbox

    unit = axes.figure.dpi / 72
    dots = {
        label: axes.transData.transform((bias, variance))
        for label, (bias, variance, _) in points.items()
    }
    taken = {
        label: Bbox.from_bounds(x - 5 * unit, y - 5 * unit, 10 * unit, 10 * unit)
        for label, (x, y) in dots.items()
    }
    lines: list[Any] = [np.empty((0, 2))]
    frame = axes.get_window_extent()
    for label, point in sorted(points.items(), key=lambda item: -item[1][1]):
        width, height = extent(axes, label)
        others = [box for name, box in taken.items() if name != label]
        place, box = PLACES[0], taken[label]
        line: Any = lines[0]
        for place in PLACES:
            x, y = dots[label] + unit * np.array(place[:2])
            box = Bbox.from_bounds(
                x if place[2] == "left" else x - width, y - height / 2, width, height
            )
            line = cast("Any", np.linspace(dots[label], (x, y), 40))[5:]
            inside = (
                frame.x0 <= box.x0
                and box.x1 <= frame.x1
                and frame.y0 <= box.y0
                and box.y1 <= frame.y1
            )
            covers = any(box.overlaps(other) for other in (*others, taken[label])) or holds(
                box, np.concatenate(lines)
            )
            if inside and not covers and not any(holds(other, line) for other in others):
                break
        taken[f"label of {label}"] = box
        lines.append(line)
        write(axes, label, point, place)


def holds(box: Any, places: Any) -> bool:
    """Whether any of the [n, 2] places is in the box."""
    inside = (places > (box.x0, box.y0)) & (places < (box.x1, box.y1))
    return bool(inside.all(axis=1).any())


def extent(axes: Any, label: str) -> tuple[float, float]:
    """Return a label's width and height in pixels."""
    text: Any = axes.text(0.5, 0.5, label, fontsize=8.5, transform=axes.transAxes)
    box = text.get_window_extent()
    text.remove()
    return box.width, box.height


def write(axes: Any, label: str, point: Point, place: tuple[float, float, str]) -> None:
    """Write one label in its dot's colour, some points from it, and joined to it unless it is right beside it."""
    across, up, side = place
    colour = KINDS[point[2]][0]
    leader = {
        "arrowstyle": "-",
        "color": colour,
        "linewidth": 0.6,
        "shrinkA": 1,
        "shrinkB": 4,
        "relpos": (0.0 if side == "left" else 1.0, 0.5),
    }
    axes.annotate(
        label,
        point[:2],
        (across, up),
        textcoords="offset points",
        ha=side,
        va="center",
        fontsize=8.5,
        color=colour,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        arrowprops=leader if abs(across) > BESIDE else None,
    )
