"""The page that `pgcore check --html` writes: heat maps, how far from the limit everything is, and what disagrees."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from html import escape
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pgcore.testing.conformance import Outcome

__all__ = ["check_page"]

PACKAGES = ("pgcore", "numpy", "torch", "tensorflow", "tensorflow-cpu", "jax", "keras")

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1d2530; --faint: #69727e; --line: #dfe3e8; --absent: #eceff2;
  --good: #14786a; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181d; --ink: #e6e9ed; --faint: #97a1ad; --line: #2c333c; --absent: #20262d;
  --good: #4fc3ae; --bad: #ff8a80; } }
body { background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2.5rem auto; max-width: 62rem; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .2rem; } p { margin: .3rem 0 1rem; color: var(--faint); }
.verdict { font-size: 1.15rem; color: var(--good); } .verdict.bad { color: var(--bad); }
table { border-collapse: separate; border-spacing: 2px; } th { font-weight: 500; text-align: left; padding: .2rem .7rem .2rem 0;
  white-space: nowrap; }
thead th { text-align: center; padding: .2rem .4rem; line-height: 1.25; } thead small, th small { color: var(--faint); font-weight: 400; }
td { text-align: center; padding: .28rem .5rem; min-width: 4.6rem; border-radius: 3px; font-variant-numeric: tabular-nums; color: #10151b; }
td.absent { background: var(--absent); color: var(--faint); } td.bad { outline: 2px solid var(--bad); font-weight: 700; }
.group th { padding-top: .8rem; font-weight: 650; } .scroll { overflow-x: auto; }
ul { padding-left: 1.2rem; } li { margin: .25rem 0; } code { font-size: .92em; }
svg text { fill: var(--faint); font: 12px system-ui, sans-serif; } svg .bar { fill: #3f8fbf; }
svg .axis { stroke: var(--line); } svg .limit { stroke: var(--bad); }
footer { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: .8rem; color: var(--faint); font-size: .88rem; }
"""

Key = Callable[["Outcome"], tuple[str, str]]


def check_page(outcomes: Sequence[Outcome], absent: Mapping[str, str], seconds: float) -> str:
    """Return one self-contained HTML page.

    Args:
        outcomes: Of `pgcore check`.
        absent: Backends that are not usable here, each with the reason.
        seconds: It all took.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>pgcore check</title><style>{STYLE}</style></head><body>",
        "<h1>pgcore check</h1>",
        *verdict(outcomes, seconds),
        "<h2>Estimators by backends</h2>",
        "<p>The largest error of all cases and stages, in units of what honest rounding allows; 4 is the limit.</p>",
        *heat_map(outcomes, lambda each: (each.backend, each.mode), absent),
        "<h2>Estimators by heads</h2>",
        "<p>The same, over all backends.</p>",
        *heat_map(outcomes, lambda each: (each.head, ""), {}),
        "<h2>How far from the limit</h2>",
        "<p>Cases by their largest error; the red line is the limit.</p>",
        *histograms(outcomes),
        *disagreements(outcomes),
        *footer(absent),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def verdict(outcomes: Sequence[Outcome], seconds: float) -> Iterator[str]:
    """Yield the sentence that says it all."""
    failed = sum(not outcome.agrees for outcome in outcomes)
    if failed or not outcomes:
        yield f'<div class="verdict bad">{failed} of {len(outcomes)} cases disagree with the reference.</div>'
    else:
        yield f'<div class="verdict">All {len(outcomes)} cases agree with the reference, at every stage.</div>'
    if outcomes:
        worst = max(outcomes, key=lambda outcome: outcome.ratio)
        yield f"<p>Worst: {shown(worst.ratio)} in {escape(worst.backend)}, {escape(worst.label)} ({escape(worst.where)}). {seconds:.0f} seconds.</p>"


def heat_map(outcomes: Sequence[Outcome], key: Key, absent: Mapping[str, str]) -> Iterator[str]:
    """Yield a table of estimators by what the key says, with a hatched column for each backend that is absent."""
    columns = list(dict.fromkeys(key(outcome) for outcome in outcomes))
    cells: dict[tuple[str, str, tuple[str, str]], list[Outcome]] = {}
    for outcome in outcomes:
        cells.setdefault((outcome.estimator, outcome.variant, key(outcome)), []).append(outcome)
    yield '<div class="scroll"><table><thead><tr><th></th>'
    for name, note in [*columns, *((name, "absent") for name in absent)]:
        yield f"<th>{escape(name)}<br><small>{escape(note)}</small></th>"
    yield "</tr></thead><tbody>"
    variants = dict.fromkeys((outcome.estimator, outcome.variant) for outcome in outcomes)
    for estimator in dict.fromkeys(estimator for estimator, _ in variants):
        yield f'<tr class="group"><th>{escape(estimator)}</th></tr>'
        for variant in (variant for owner, variant in variants if owner == estimator):
            row = "".join(cell(cells.get((estimator, variant, column), [])) for column in columns)
            yield f"<tr><th>{escape(variant)}</th>{row}{cell([]) * len(absent)}</tr>"
    yield "</tbody></table></div>"


def cell(outcomes: Sequence[Outcome]) -> str:
    """Return one cell of a heat map."""
    if not outcomes:
        return '<td class="absent">&ndash;</td>'
    worst = max(outcomes, key=lambda outcome: (not outcome.agrees, outcome.ratio))
    agrees = all(outcome.agrees for outcome in outcomes)
    told = f"{len(outcomes)} cases; worst: {worst.label}, {worst.fixture}, {worst.error or worst.where}"
    mark = "" if agrees else ' class="bad"'
    return f'<td{mark} style="background: {colour(worst.ratio, worst.limit)}" title="{escape(told)}">{shown(worst.ratio)}</td>'


def colour(ratio: float, limit: float) -> str:
    """Return a calm green far below the limit, amber near it, red above."""
    if not ratio <= limit:
        return "hsl(6 85% 72%)"
    share = max(0.0, min(1.0, 1.0 + math.log10(max(ratio, 1e-9) / limit) / 2.0))  # 0 at a hundredth of the limit
    return f"hsl({165 - 120 * share**3:.0f} {40 + 35 * share**3:.0f}% {80 - 8 * share:.0f}%)"


def shown(ratio: float) -> str:
    """Return a ratio with two digits."""
    return f"{ratio:.2g}" if math.isfinite(ratio) else "error"


def histograms(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield one small picture for each backend and mode: how many cases have which error."""
    low, high, bins, width, height = -3.0, 1.0, 32, 700, 64
    for backend, mode in dict.fromkeys((outcome.backend, outcome.mode) for outcome in outcomes):
        counts = [0] * bins
        for outcome in outcomes:
            if (outcome.backend, outcome.mode) == (backend, mode):
                place = (math.log10(max(min(outcome.ratio, 1e9), 1e-9)) - low) / (high - low)
                counts[max(0, min(bins - 1, int(place * bins)))] += 1
        yield f'<svg viewBox="0 0 {width + 130} {height + 22}" width="100%" role="img" aria-label="errors of {escape(backend)}">'
        yield f'<text x="0" y="{height - 4}">{escape(backend)} {escape(mode)}</text>'
        wide = width / bins
        for number, count in enumerate(counts):
            tall = height * count / max(*counts, 1)
            place = (
                f'x="{130 + number * wide + 1:.1f}" y="{height - tall:.1f}" width="{wide - 2:.1f}" height="{tall:.1f}"'
            )
            yield f'<rect class="bar" {place}><title>{count}</title></rect>'
        limit = 130 + width * (math.log10(4.0) - low) / (high - low)
        yield f'<line class="axis" x1="130" x2="{width + 130}" y1="{height}" y2="{height}"/>'
        yield f'<line class="limit" x1="{limit:.1f}" x2="{limit:.1f}" y1="0" y2="{height}"/>'
        for power in range(int(low), int(high) + 1):
            anchor = "end" if power == high else "start" if power == low else "middle"
            yield f'<text x="{130 + width * (power - low) / (high - low):.1f}" y="{height + 16}" text-anchor="{anchor}">{10.0**power:g}</text>'
        yield "</svg>"


def disagreements(outcomes: Iterable[Outcome]) -> Iterator[str]:
    """Yield the list of what disagrees, and where first."""
    failed = [outcome for outcome in outcomes if not outcome.agrees]
    if not failed:
        return
    yield "<h2>Disagreements</h2><p>Each at its first stage that differs.</p><ul>"
    for outcome in failed:
        why = outcome.error or f"{outcome.where}: {outcome.ratio:.3g} times what rounding allows"
        case = f"<code>{escape(outcome.label)}</code>, {escape(outcome.fixture)}"
        yield f"<li>{escape(outcome.backend)} ({escape(outcome.mode)}), {case}: {escape(why)}</li>"
    yield "</ul>"


def footer(absent: Mapping[str, str]) -> Iterator[str]:
    """Yield what is absent and the versions of what is not."""
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            continue
    yield "<footer>"
    for name, why in absent.items():
        yield f"<div>absent: {escape(name)} ({escape(why)})</div>"
    yield f"<div>{escape(', '.join(found))}</div></footer>"
