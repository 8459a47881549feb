"""The learning-curve picture."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np

from pgcore_train.run.history import WINDOW, History, window_means

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["draw"]

# Colours for episodes, their mean, the goal and the grid; told apart in print and by most eyes.
DOTS, LINE, GOAL, GRID = "#9ecae1", "#08519c", "#d94801", "#e5e5e5"


def draw(history: History, title: str, goal: float | None) -> bytes:
    """Return a PNG of episodes' returns and their running mean against environment steps.

    Args:
        history: Its episodes are drawn; none give empty axes.
        title: Above the picture.
        goal: A return to mark, or None.

    Raises:
        ModuleNotFoundError: matplotlib is not installed.
    """
    # pyplot would pick a backend and keep state for the whole process.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8.0, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    if history.returns:
        _plot_returns(axes, history)
    if goal is not None:
        axes.axhline(
            goal, color=GOAL, linewidth=1.2, linestyle=(0, (4, 3)), label=f"goal {goal:g}", zorder=2
        )
    _dress(axes, title)
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)
    return buffer.getvalue()


def _plot_returns(axes: Axes, history: History) -> None:
    # An environment that gives NaN for a reward leaves no return to draw.
    finite = np.isfinite(history.returns)
    steps, returns = np.array(history.finished_at)[finite], np.array(history.returns)[finite]
    if not len(returns):
        return
    axes.scatter(steps, returns, s=9, color=DOTS, linewidths=0, label="one episode", zorder=1)
    means = window_means(returns)
    at = steps[-len(means) :]
    # Environments that finish together are one point of the line.
    last = np.append(np.diff(at) > 0, True)
    axes.plot(
        at[last],
        means[last],
        color=LINE,
        linewidth=2.0,
        solid_capstyle="round",
        label=f"mean of {WINDOW}",
        zorder=3,
    )


def _dress(axes: Axes, title: str) -> None:
    from matplotlib.ticker import FuncFormatter

    # The largest steps reach millions, which the separators make readable.
    axes.set_title(title, loc="left", fontsize=11)
    axes.set_xlabel("environment steps")
    axes.set_ylabel("return of an episode")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, loc="best", fontsize=9)
