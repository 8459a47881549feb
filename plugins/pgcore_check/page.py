"""The page of `pgcore check --html`: heat maps, histograms of errors, and disagreements."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

import numpy as np

import pgcore
from pgcore.registry.registry import registry, version_found
from pgcore_check.outcomes import IDENTITY, Outcome, blindness, reason, share, shown, summary, worst

__all__ = ["check_page"]

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1d2530; --faint: #626b77;
  --line: #dfe3e8; --hatch: #e3e7eb;
  --good: #14786a; --bad: #b3261e; --light: 80%; --bar: #3f8fbf; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181d; --ink: #e6e9ed; --faint: #97a1ad;
  --line: #2c333c; --hatch: #29313a;
  --good: #4fc3ae; --bad: #ff8a80; --light: 27%; --bar: #5aa9d6; } }
body { background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif;
  margin: 2.5rem auto; max-width: 62rem; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .2rem; } p {
  margin: .3rem 0 1rem; color: var(--faint); }
.verdict { font-size: 1.15rem; color: var(--good); } .verdict.bad { color: var(--bad); }
table { border-collapse: separate; border-spacing: 2px; }
th { font-weight: 500; text-align: left; padding: .2rem .7rem .2rem 0; white-space: nowrap; }
thead th { text-align: center; padding: .2rem .4rem; line-height: 1.25; } small {
  color: var(--faint); font-weight: 400; }
td, .scale span { background: hsl(var(--hue) var(--strength) var(--light)); border-radius: 3px;
  text-align: center; }
td { padding: .28rem .5rem; min-width: 4.6rem; white-space: nowrap;
  font-variant-numeric: tabular-nums; print-color-adjust: exact; }
td.none { background: none; color: var(--faint); } td.bad { outline: 2px solid var(--bad);
  outline-offset: -2px; font-weight: 700; }
td.blind { outline: 2px dashed var(--faint); outline-offset: -2px; font-style: italic; }
td.absent {
  background: repeating-linear-gradient(135deg, var(--hatch) 0 2px, transparent 2px 7px); }
.group th { padding-top: .8rem; font-weight: 650; } .scroll { overflow-x: auto; }
.scale { display: flex; gap: 2px; margin: 0 0 .8rem; font-size: .82rem; } .scale span {
  padding: .1rem .6rem; }
ul { padding-left: 1.2rem; } li { margin: .25rem 0; overflow-wrap: anywhere; } code {
  font-size: .92em; }
svg { display: block; } svg text { fill: var(--faint); font: 12px system-ui, sans-serif; }
  svg .bar { fill: var(--bar); }
svg .over { fill: var(--bad); } svg .axis { stroke: var(--line); } svg .limit {
  stroke: var(--bad); stroke-dasharray: 3 3; }
footer { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: .8rem;
  color: var(--faint); font-size: .88rem; }
"""

# The histograms reach from a ten-thousandth of the limit to ten times the limit, which is thus
# between two bins.
DECADES, BINS_PER_DECADE, DECADES_BELOW = 5, 8, 4

# Width of a bin, of the label at the left, and height of a histogram, in units of the view box.
BIN, LEFT, HEIGHT = 20, 140, 52

# From an outcome to its column in a heat map: a name and a note below it.
Key = Callable[[Outcome], tuple[str, str]]


def check_page(
    outcomes: Sequence[Outcome],
    absent: Mapping[str, str],
    seconds: float,
    unchecked: Sequence[str] = (),
) -> str:
    """Return one self-contained HTML page.

    Args:
        outcomes: All outcomes of `pgcore check`.
        absent: Backends that are not usable here, each with the reason.
        seconds: Duration of the run.
        unchecked: Lines on registered objects that were not checked.
    """
    # Identities are no backend's, and in no figure.
    cases = [outcome for outcome in outcomes if outcome.fixture != IDENTITY]
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width">',
        f"<title>pgcore check</title><style>{STYLE}</style></head><body>",
        "<h1>pgcore check</h1>",
        *verdict(outcomes, seconds),
        *(figures(cases, absent) if cases else ()),
        *disagreements(outcomes),
        *blind_cases(outcomes),
        *footer(absent, unchecked),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def verdict(outcomes: Sequence[Outcome], seconds: float) -> Iterator[str]:
    """Yield the sentence that counts agreements and disagreements, and the worst outcome."""
    if not outcomes:
        text = "Nothing was checked: no backend, estimator or head is left."
        yield f'<div class="verdict bad">{text}</div>'
        return
    total = len(outcomes)
    failed = sum(not outcome.agrees for outcome in outcomes)
    if failed:
        text = f"{failed} of {total} cases disagree with the reference."
        yield f'<div class="verdict bad">{text}</div>'
    else:
        blind = sum(outcome.blind for outcome in outcomes)
        agree = f"{total - blind} of {total}" if blind else f"All {total}"
        note = f"; {blind} are blind" if blind else ""
        text = f"{agree} cases agree with the reference, at every stage{note}."
        yield f'<div class="verdict">{text}</div>'
    yield f"<p>Worst: {escape(summary(worst(outcomes)))}. {seconds:.0f} seconds.</p>"


def figures(outcomes: Sequence[Outcome], absent: Mapping[str, str]) -> Iterator[str]:
    """Yield the heat maps and the histograms."""
    yield "<h2>Estimators by backends</h2>"
    yield "<p>The largest error of a gradient, in units of the rounding-error bound (limit 4)."
    yield " A case that disagrees is shown with the error of its first stage that does.</p>"
    yield from scale()
    yield from heat_map(outcomes, lambda outcome: (outcome.backend, outcome.mode), absent)
    yield "<h2>Estimators by heads</h2><p>The same, over all backends.</p>"
    yield from heat_map(outcomes, lambda outcome: (outcome.head, ""), {})
    yield "<h2>Distance from the limit</h2>"
    yield "<p>Cases by their largest error. The dashed line is the limit;"
    yield " the bars at the ends count all cases beyond.</p>"
    yield from histograms(outcomes)


def scale() -> Iterator[str]:
    """Yield the key to the colours."""
    # Errors in units of the rounding-error bound, whose limit is 4.
    steps = {0.04: "0.04 or less", 0.4: "0.4", 1.0: "1", 2.0: "2", 4.0: "4", math.inf: "above"}
    yield '<div class="scale">'
    yield "".join(f'<span style="{colour(at / 4)}">{text}</span>' for at, text in steps.items())
    yield "</div>"


def heat_map(outcomes: Sequence[Outcome], key: Key, absent: Mapping[str, str]) -> Iterator[str]:
    """Yield a table of variants by columns.

    Args:
        outcomes: At least one.
        key: The column of an outcome.
        absent: Backends that are not usable, each with the reason; each gets a hatched column.
    """
    columns = list(dict.fromkeys(key(outcome) for outcome in outcomes))
    cells: dict[tuple[str, str, tuple[str, str]], list[Outcome]] = {}
    variants: dict[str, dict[str, None]] = {}
    for outcome in outcomes:
        cells.setdefault((outcome.estimator, outcome.variant, key(outcome)), []).append(outcome)
        variants.setdefault(outcome.estimator, {})[outcome.variant] = None
    yield '<div class="scroll"><table><thead><tr><td class="none"></td>'
    for name, note in [*columns, *((name, "absent") for name in absent)]:
        yield f'<th scope="col">{escape(name)}<br><small>{escape(note)}</small></th>'
    yield "</tr></thead>"
    hatched = "".join(
        f'<td class="absent" title="absent: {escape(why)}"></td>' for why in absent.values()
    )
    # A body for each estimator, with its name across all columns.
    width = 1 + len(columns) + len(absent)
    for estimator, labels in variants.items():
        heading = f'<th scope="rowgroup" colspan="{width}">{escape(estimator)}</th>'
        yield f'<tbody><tr class="group">{heading}</tr>'
        for label in labels:
            row = "".join(cell(cells.get((estimator, label, column), [])) for column in columns)
            yield f'<tr><th scope="row">{escape(label)}</th>{row}{hatched}</tr>'
        yield "</tbody>"
    yield "</table></div>"


def cell(outcomes: Sequence[Outcome]) -> str:
    """Return one cell of a heat map."""
    if not outcomes:
        return '<td class="none" title="not run">&middot;</td>'
    shown_case = worst(outcomes)
    title = f"{len(outcomes)} cases; worst: {shown_case.label}, {shown_case.fixture}, "
    title += shown_case.where.removesuffix("[]") if shown_case.agrees else reason(shown_case)
    blind = sum(outcome.blind for outcome in outcomes)
    title += f"; {blind} blind" if blind else ""
    # A disagreement outranks blind cases in the same cell.
    mark = ' class="bad"' if not shown_case.agrees else ' class="blind"' if blind else ""
    text = "blind" if blind == len(outcomes) else shown(shown_case)
    return f'<td{mark} style="{colour(share(shown_case))}" title="{escape(title)}">{text}</td>'


def colour(of_limit: float) -> str:
    """Return hue and saturation: from blue through green and amber to the limit, red above.

    The page's light or dark scheme sets the lightness.
    """
    if not of_limit <= 1.0:
        return "--hue:4;--strength:75%"
    near = max(0.0, 1.0 + math.log10(max(of_limit, 1e-9)) / 2.0)  # 0 at a hundredth of the limit
    return f"--hue:{200 - 158 * near**3:.0f};--strength:{38 + 40 * near**3:.0f}%"


def histograms(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield a histogram of errors for each backend and mode."""
    # Counted in one pass over the outcomes, which are many.
    counts: dict[tuple[str, str], list[int]] = {}
    for outcome in outcomes:
        key = (outcome.backend, outcome.mode)
        bins = counts.setdefault(key, [0] * (BINS_PER_DECADE * DECADES))
        bins[bin_of(share(outcome))] += 1
    for number, ((backend, mode), bins) in enumerate(counts.items(), 1):
        yield from histogram(f"{backend} {mode}", bins, last=number == len(counts))


def histogram(name: str, counts: Sequence[int], *, last: bool) -> Iterator[str]:
    """Yield one histogram.

    Args:
        name: The backend and mode.
        counts: The number of cases in each bin.
        last: Whether the axis is drawn, as it is under the last histogram.
    """
    width = LEFT + BIN * BINS_PER_DECADE * DECADES
    limit = LEFT + BIN * BINS_PER_DECADE * DECADES_BELOW
    box, label = f"0 0 {width} {HEIGHT + 6 + (18 if last else 0)}", escape(name)
    yield f'<svg viewBox="{box}" width="100%" role="img" aria-label="errors of {label}">'
    yield f'<text x="0" y="{HEIGHT - 4}">{label}</text>'
    yield f'<line class="axis" x1="{LEFT}" x2="{width}" y1="{HEIGHT}" y2="{HEIGHT}"/>'
    yield f'<line class="limit" x1="{limit}" x2="{limit}" y1="0" y2="{HEIGHT}"/>'
    for number, count in enumerate(counts):
        if count:
            # The highest bar leaves a twentieth of the height free.
            x, tall = LEFT + BIN * number, HEIGHT * 0.95 * count / max(counts)
            kind = "over" if x >= limit else "bar"
            place = f'x="{x + 1}" y="{HEIGHT - tall:.1f}" width="{BIN - 2}" height="{tall:.1f}"'
            yield f'<rect class="{kind}" {place}><title>{count} cases</title></rect>'
    if last:
        yield from axis(width)
    yield "</svg>"


def bin_of(of_limit: float) -> int:
    """Return the bin of an error, a share of the limit; the end bins hold everything beyond."""
    place = (math.log10(max(min(of_limit, 1e9), 1e-9)) + DECADES_BELOW) * BINS_PER_DECADE
    # Rounded up, less 1: the limit itself belongs to the bin below it.
    return max(0, min(BINS_PER_DECADE * DECADES, math.ceil(place)) - 1)


def axis(width: int) -> Iterator[str]:
    """Yield the numbers under the last histogram."""
    for decade in range(DECADES + 1):
        text = f"{4 * 10.0 ** (decade - DECADES_BELOW):g}"
        anchor = "start" if decade == 0 else "end" if decade == DECADES else "middle"
        x = LEFT + BIN * BINS_PER_DECADE * decade
        yield f'<text x="{min(x, width)}" y="{HEIGHT + 18}" text-anchor="{anchor}">{text}</text>'


def disagreements(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the list of disagreements, each with its first stage that differs."""
    failed = [outcome for outcome in outcomes if not outcome.agrees]
    if not failed:
        return
    yield "<h2>Disagreements</h2><p>Each at its first stage that differs.</p><ul>"
    for outcome in failed:
        yield item(outcome, reason(outcome))
    yield "</ul>"


def blind_cases(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the list of cases that agree and would agree with an error too."""
    blind = [outcome for outcome in outcomes if outcome.blind]
    if not blind:
        return
    yield "<h2>Blind</h2><p>These cases agree, and would agree with an error too.</p><ul>"
    for outcome in blind:
        yield item(outcome, blindness(outcome))
    yield "</ul>"


def item(outcome: Outcome, text: str) -> str:
    """Return a line of a list: the backend, mode, case and fixture, then a text."""
    case = f"<code>{escape(outcome.label)}</code>, {escape(outcome.fixture)}"
    return f"<li>{escape(outcome.backend)} ({escape(outcome.mode)}), {case}: {escape(text)}</li>"


def footer(absent: Mapping[str, str], unchecked: Sequence[str]) -> Iterator[str]:
    """Yield the absent backends, the unchecked objects, and the versions of the packages."""
    versions = [
        f"Python {platform.python_version()}",
        f"pgcore {pgcore.__version__}",
        f"numpy {np.__version__}",
    ]
    for entry in registry().providers("backends"):
        package, version = entry.provider.requires, version_found(entry.provider)
        if package is not None and version is not None:
            versions.append(f"{package} {version}")
    yield "<footer>"
    for name, why in absent.items():
        yield f"<div>absent: {escape(name)} ({escape(why)})</div>"
    for line in unchecked:
        yield f"<div>{escape(line)}</div>"
    yield f"<div>{escape(', '.join(versions))}</div></footer>"
