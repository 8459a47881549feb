"""The picture of `pgcore audit --all`: bias against variance."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from pgcore.errors import MDPError

if TYPE_CHECKING:
    from pgcore_exact.audits import Audit, Row

__all__ = ["draw"]

# Relative bias, or the kind's position in the left panel; relative variance; kind.
Point = tuple[float, float, str]

# Colours that colour-blind readers can tell apart (Okabe and Ito), each with its own marker.
KINDS = {
    "on-policy, no critic": ("#0072B2", "o"),
    "on-policy, random critic": ("#D55E00", "s"),
    "off-policy": ("#009E73", "^"),
}
GRID, TEXT, RULE = "#e5e5e5", "#333333", "#999999"

# A relative bias below this is rounding.
EXACT = 1e-9

# Offsets of a label from its dot, in points: beside it first, then ever farther away.
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
# Points from one label of a list to the next: a line of text at the labels' font size.
LINE = 11.5
FONT_SIZE = 8.5
# Distance from one kind's dots to the next, as a fraction of the left panel's width.
APART = 0.07
# Points from the first kind's dots to the list of labels.
LIST = 58.0


def draw(rows: Sequence[Row], form: str) -> bytes:
    """Return a picture of relative bias and of variance relative to reinforce's.

    Each dot is an estimator. The gradient of a loss that is a mean over steps counts times the
    expected length of an episode.

    Args:
        rows: Rows with an audit, a variance and a finite bias are drawn, all others listed below.
            One is labelled "reinforce".
        form: "png" or "svg"; the same rows give the same bytes.

    Raises:
        MDPError: no row can be drawn.
    """
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    audits = drawable(rows)
    if not audits:
        raise MDPError(
            "audit: expected an estimator that can be drawn, got none; see the errors of the table"
        )
    first = audits.get("reinforce") or next(iter(audits.values()))
    points = merge_points(points_of(audits, first))
    # No bias has no place on a logarithmic axis, so those dots have a panel with a column a kind.
    unbiased, biased = dict[str, Point](), dict[str, Point]()
    for label, (bias, variance, kind) in points.items():
        if bias < EXACT:
            unbiased[label] = (APART * list(KINDS).index(kind), variance, kind)
        else:
            biased[label] = (bias, variance, kind)
    # Fixed salts and dates make the bytes reproducible.
    with cast("Any", mpl).rc_context({"svg.hashsalt": "pgcore", "svg.fonttype": "none"}):
        size = (9.6, 5.4 + 0.16 * max(0, len(points) - 20))
        figure: Any = Figure(figsize=size, dpi=130, layout="constrained")
        canvas: Any = (FigureCanvasSVG if form == "svg" else FigureCanvasAgg)(figure)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 2))
        plot(left, unbiased)
        plot(right, biased)
        style_axes(left, right)
        kinds = {kind for _, _, kind in points.values()}
        write_legend(figure, first, kinds, [row for row in rows if row.label not in audits])
        # Labels are placed in pixels, so that the layout is fixed before.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        list_names(left, unbiased)
        place_names(right, biased)
        buffer = io.BytesIO()
        if form == "svg":
            canvas.print_svg(buffer, metadata={"Date": None})
        else:
            canvas.print_png(buffer)
    return buffer.getvalue()


def drawable(rows: Sequence[Row]) -> dict[str, Audit]:
    """Return the audits with a place on both logarithmic axes, by label."""
    audits: dict[str, Audit] = {}
    for row in rows:
        audit = row.audit
        if audit is not None and audit.variance > 0 and math.isfinite(audit.rescaled):
            audits[row.label] = audit
    return audits


def points_of(audits: Mapping[str, Audit], first: Audit) -> dict[str, Point]:
    """Return each audit's point.

    Args:
        audits: The audits by label.
        first: The one whose variance is the unit.
    """
    unit = first.variance * first.factor**2
    return {
        label: (audit.rescaled, audit.variance * audit.factor**2 / unit, kind_of(audit))
        for label, audit in audits.items()
    }


def kind_of(audit: Audit) -> str:
    """Return an estimator's kind, one of `KINDS`."""
    if audit.estimator.claims.off_policy != "none":
        return "off-policy"
    return "on-policy, no critic" if audit.policy == "no critic" else "on-policy, random critic"


def merge_points(points: Mapping[str, Point]) -> dict[str, Point]:
    """Return the points, with a common label for those that coincide."""
    labels_at: dict[tuple[float, float, str], list[str]] = {}
    for label, (bias, variance, kind) in points.items():
        # Three digits are more than the picture resolves.
        key = (float(f"{bias:.3g}") if bias >= EXACT else 0.0, float(f"{variance:.3g}"), kind)
        labels_at.setdefault(key, []).append(label)
    return {" = ".join(drop_variants(labels)): points[labels[0]] for labels in labels_at.values()}


def drop_variants(labels: list[str]) -> list[str]:
    """Return the labels without those of variants of an estimator that is listed too."""
    prefixes = tuple(f"{label}{mark}" for label in labels for mark in ", ")
    return [label for label in labels if not label.startswith(prefixes)]


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


def write_legend(figure: Any, first: Audit, kinds: set[str], absent: Sequence[Row]) -> None:
    """Write the title, the legend and the names without a place on the axes.

    Args:
        figure: The figure.
        first: Any audit; it tells the batch.
        kinds: The kinds that are drawn.
        absent: The rows that are not drawn.
    """
    from matplotlib.lines import Line2D

    episodes = f"batches of {first.batch} episodes" if first.batch > 1 else "single episodes"
    title = f"Exact bias and variance on one small random process, {episodes} of the current policy"
    figure.suptitle(title, fontsize=12, x=0.01, ha="left")
    # A handle is a marker without its line.
    style = {"linestyle": "", "markeredgecolor": "white", "markersize": 8}
    handles = [
        Line2D([], [], marker=marker, color=colour, label=kind, **cast("Any", style))
        for kind, (colour, marker) in KINDS.items()
        if kind in kinds
    ]
    figure.legend(
        handles=handles,
        loc="outside lower center",
        ncols=len(handles),
        frameon=False,
        fontsize=9,
        title=list_absent(absent),
        title_fontsize=9,
    )


def list_absent(rows: Sequence[Row]) -> str | None:
    """Return the names and reasons of rows without a place on the axes; None if there are none."""
    labels_by_reason: dict[str, list[str]] = {}
    for row in rows:
        reason = "no finite relative bias"
        if row.audit is None:
            reason = "not to be audited"
        elif row.audit.variance == 0:
            reason = "the policy's gradient is always 0"
        labels_by_reason.setdefault(reason, []).append(row.label)
    parts: list[str] = []
    for reason, labels in labels_by_reason.items():
        parts.append(f"{', '.join(drop_variants(labels))} ({reason})")
    return f"without a place here: {', '.join(parts)}" if parts else None


def style_axes(unbiased: Any, biased: Any) -> None:
    """Set the axes' titles and scales."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    # The left panel's axis has columns, not a scale.
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
    # Plain decimals read better than powers of ten over so few decades.
    for axis in (unbiased.yaxis, biased.xaxis):
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())
    # The rule is reinforce's variance.
    for axes in (unbiased, biased):
        axes.axhline(1.0, color=RULE, linewidth=0.8, linestyle=(0, (4, 3)), zorder=1)
        axes.grid(color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)


def list_names(axes: Any, points: Mapping[str, Point]) -> None:
    """Write the labels of stacked dots as a list beside them, each joined to its dot."""
    # Pixels a point.
    unit = axes.figure.dpi / 72
    order = sorted(points.items(), key=lambda item: -item[1][1])
    dots: list[tuple[float, float]] = []
    for _, (column, variance, _) in order:
        across, height = axes.transData.transform((column, variance)) / unit
        dots.append((float(across), float(height)))
    left = float(axes.transData.transform((0.0, 1.0))[0]) / unit + LIST
    lines = spread([height for _, height in dots])
    for (label, point), (across, height), line in zip(order, dots, lines, strict=True):
        write(axes, label, point, (left - across, line - height, "left"))


def spread(heights: Sequence[float]) -> list[float]:
    """Return falling heights moved as little as needed to be a `LINE` apart.

    A crowd is centred on the mean of its heights.
    """
    # Middle and size of each crowd; neighbours that would overlap become one crowd.
    crowds: list[tuple[float, int]] = []
    for height in heights:
        middle, size = height, 1
        while crowds and crowds[-1][0] - middle < LINE * (crowds[-1][1] + size) / 2:
            upper, many = crowds.pop()
            middle, size = (upper * many + middle * size) / (many + size), many + size
        crowds.append((middle, size))
    lines: list[float] = []
    for middle, size in crowds:
        lines += [middle + LINE * ((size - 1) / 2 - index) for index in range(size)]
    return lines


def place_names(axes: Any, points: Mapping[str, Point]) -> None:
    """Write each label at the first free place: nothing covered by it, or by its line."""
    from matplotlib.transforms import Bbox

    unit, frame = axes.figure.dpi / 72, axes.get_window_extent()
    dots = {label: axes.transData.transform(point[:2]) for label, point in points.items()}
    # Boxes of dots and labels, and pixels along the lines between them.
    boxes: dict[str, Any] = {}
    for label, (x, y) in dots.items():
        boxes[label] = Bbox.from_bounds(x - 5 * unit, y - 5 * unit, 10 * unit, 10 * unit)
    lines: list[Any] = [np.empty((0, 2))]
    for label, point in sorted(points.items(), key=lambda item: -item[1][1]):
        size = extent(axes, label)
        dot, obstacles = boxes[label], [box for name, box in boxes.items() if name != label]
        place, box, line = PLACES[0], dot, lines[0]
        for place in PLACES:
            box, line = label_at(dots[label], unit, size, place)
            free = (
                is_inside(frame, box)
                and not any(box.overlaps(obstacle) for obstacle in (*obstacles, dot))
                and not contains_any(box, np.concatenate(lines))
                and not any(contains_any(obstacle, line) for obstacle in obstacles)
            )
            if free:
                break
        # Without a free place the last one has to do.
        boxes[f"label of {label}"] = box
        lines.append(line)
        write(axes, label, point, place)


def label_at(
    dot: Any, unit: float, size: tuple[float, float], place: tuple[float, float, str]
) -> tuple[Any, Any]:
    """Return a label's box, and [35, 2] pixels of its line, at a place.

    Args:
        dot: [2] pixels. The label's dot.
        unit: Pixels a point.
        size: The label's width and height, pixels.
        place: One of `PLACES`.
    """
    from matplotlib.transforms import Bbox

    (across, up, side), (width, height) = place, size
    x, y = dot + unit * np.array((across, up))
    box = Bbox.from_bounds(x if side == "left" else x - width, y - height / 2, width, height)
    # The line's start is inside its own dot.
    return box, cast("Any", np.linspace(dot, (x, y), 40))[5:]


def is_inside(frame: Any, box: Any) -> bool:
    """Return whether a box is inside of the frame."""
    across = frame.x0 <= box.x0 and box.x1 <= frame.x1
    return bool(across and frame.y0 <= box.y0 and box.y1 <= frame.y1)


def contains_any(box: Any, places: Any) -> bool:
    """Return whether any of the [n, 2] places is in the box."""
    inside = (places > (box.x0, box.y0)) & (places < (box.x1, box.y1))
    return bool(inside.all(axis=1).any())


def extent(axes: Any, label: str) -> tuple[float, float]:
    """Return a label's width and height, pixels."""
    text: Any = axes.text(0.5, 0.5, label, fontsize=FONT_SIZE, transform=axes.transAxes)
    box = text.get_window_extent()
    text.remove()
    return box.width, box.height


def write(axes: Any, label: str, point: Point, place: tuple[float, float, str]) -> None:
    """Write one label in its dot's colour, joined to its dot unless beside it.

    Args:
        axes: The panel.
        label: The label.
        point: Its dot.
        place: Offset in points across and up, and the side of the label that faces the dot.
    """
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
        fontsize=FONT_SIZE,
        color=colour,
        bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.8, "alpha": 0.85},
        arrowprops=leader if abs(across) > BESIDE else None,
    )
