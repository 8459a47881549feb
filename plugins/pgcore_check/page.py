"""The page that `pgcore check --html` writes: heat maps, how far from the limit everything is, and what disagrees."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from html import escape

import numpy as np

import pgcore
from pgcore.registry.registry import registry, version_found
from pgcore_check.outcomes import Outcome, blindness, description, reason, share, shown, worst

__all__ = ["check_page"]

STYLE = """
:root { color-scheme: light dark; --ground: #ffffff; --ink: #1d2530; --faint: #626b77; --line: #dfe3e8; --hatch: #e3e7eb;
  --good: #14786a; --bad: #b3261e; --light: 80%; --bar: #3f8fbf; }
@media (prefers-color-scheme: dark) { :root { --ground: #14181d; --ink: #e6e9ed; --faint: #97a1ad; --line: #2c333c; --hatch: #29313a;
  --good: #4fc3ae; --bad: #ff8a80; --light: 27%; --bar: #5aa9d6; } }
body { background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, sans-serif; margin: 2.5rem auto; max-width: 62rem; padding: 0 1.5rem; }
h1 { font-size: 1.6rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.5rem 0 .2rem; } p { margin: .3rem 0 1rem; color: var(--faint); }
.verdict { font-size: 1.15rem; color: var(--good); } .verdict.bad { color: var(--bad); }
table { border-collapse: separate; border-spacing: 2px; }
th { font-weight: 500; text-align: left; padding: .2rem .7rem .2rem 0; white-space: nowrap; }
thead th { text-align: center; padding: .2rem .4rem; line-height: 1.25; } small { color: var(--faint); font-weight: 400; }
td, .scale span { background: hsl(var(--hue) var(--strength) var(--light)); border-radius: 3px; text-align: center; }
td { padding: .28rem .5rem; min-width: 4.6rem; white-space: nowrap; font-variant-numeric: tabular-nums; print-color-adjust: exact; }
td.none { background: none; color: var(--faint); } td.bad { outline: 2px solid var(--bad); outline-offset: -2px; font-weight: 700; }
td.blind { outline: 2px dashed var(--faint); outline-offset: -2px; font-style: italic; }
td.absent { background: repeating-linear-gradient(135deg, var(--hatch) 0 2px, transparent 2px 7px); }
.group th { padding-top: .8rem; font-weight: 650; } .scroll { overflow-x: auto; }
.scale { display: flex; gap: 2px; margin: 0 0 .8rem; font-size: .82rem; } .scale span { padding: .1rem .6rem; }
ul { padding-left: 1.2rem; } li { margin: .25rem 0; overflow-wrap: anywhere; } code { font-size: .92em; }
svg { display: block; } svg text { fill: var(--faint); font: 12px system-ui, sans-serif; } svg .bar { fill: var(--bar); }
svg .over { fill: var(--bad); } svg .axis { stroke: var(--line); } svg .limit { stroke: var(--bad); stroke-dasharray: 3 3; }
footer { margin-top: 2.5rem; border-top: 1px solid var(--line); padding-top: .8rem; color: var(--faint); font-size: .88rem; }
"""

# The histograms' bins: of a ten-thousandth of the limit to ten times the limit, so that the limit is between two of them.
DECADES, BINS_PER_DECADE, DECADES_BELOW = 5, 8, 4
BIN, LEFT, HEIGHT = 20, 140, 52

Key = Callable[[Outcome], tuple[str, str]]


def check_page(
    outcomes: Sequence[Outcome],
    absent: Mapping[str, str],
    seconds: float,
    unchecked: Sequence[str] = (),
) -> str:
    """Return one self-contained HTML page.

    Args:
        outcomes: Of `pgcore check`.
        absent: Backends that are not usable here, each with the reason.
        seconds: It all took.
        unchecked: Lines on what is registered and was not checked.
    """
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
        f"<title>pgcore check</title><style>{STYLE}</style></head><body>",
        "<h1>pgcore check</h1>",
        *verdict(outcomes, seconds),
        *(figures(outcomes, absent) if outcomes else ()),
        *disagreements(outcomes),
        *blind_cases(outcomes),
        *footer(absent, unchecked),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def verdict(outcomes: Sequence[Outcome], seconds: float) -> Iterator[str]:
    """Yield the sentence that says it all."""
    if not outcomes:
        yield '<div class="verdict bad">Nothing was checked: no backend, estimator or head is left.</div>'
        return
    failed = sum(not outcome.agrees for outcome in outcomes)
    if failed:
        yield f'<div class="verdict bad">{failed} of {len(outcomes)} cases disagree with the reference.</div>'
    else:
        blind = sum(outcome.blind for outcome in outcomes)
        agree = f"{len(outcomes) - blind} of {len(outcomes)}" if blind else f"All {len(outcomes)}"
        note = f"; {blind} are blind" if blind else ""
        yield f'<div class="verdict">{agree} cases agree with the reference, at every stage{note}.</div>'
    yield f"<p>Worst: {escape(description(worst(outcomes)))}. {seconds:.0f} seconds.</p>"


def figures(outcomes: Sequence[Outcome], absent: Mapping[str, str]) -> Iterator[str]:
    """Yield what there is to look at."""
    yield "<h2>Estimators by backends</h2>"
    yield "<p>The largest error of a gradient, in units of what honest rounding allows; 4 is the limit."
    yield " A case that disagrees at any stage counts with that.</p>"
    yield from scale()
    yield from heat_map(outcomes, lambda each: (each.backend, each.mode), absent)
    yield "<h2>Estimators by heads</h2><p>The same, over all backends.</p>"
    yield from heat_map(outcomes, lambda each: (each.head, ""), {})
    yield "<h2>How far from the limit</h2>"
    yield "<p>Cases by their largest error. The dashed line is the limit; the bars at the ends hold what is beyond.</p>"
    yield from histograms(outcomes)


def scale() -> Iterator[str]:
    """Yield the key to the colours."""
    steps = [
        (0.04, "0.04 or less"),
        (0.4, "0.4"),
        (1.0, "1"),
        (2.0, "2"),
        (4.0, "4"),
        (math.inf, "above"),
    ]
    yield '<div class="scale">' + "".join(
        f'<span style="{colour(at / 4)}">{told}</span>' for at, told in steps
    )
    yield "</div>"


def heat_map(outcomes: Sequence[Outcome], key: Key, absent: Mapping[str, str]) -> Iterator[str]:
    """Yield a table of estimators by what the key says, with a hatched column for each backend that is absent."""
    columns = list(dict.fromkeys(key(outcome) for outcome in outcomes))
    cells: dict[tuple[str, str, tuple[str, str]], list[Outcome]] = {}
    for outcome in outcomes:
        cells.setdefault((outcome.estimator, outcome.variant, key(outcome)), []).append(outcome)
    yield '<div class="scroll"><table><thead><tr><td class="none"></td>'
    for name, note in [*columns, *((name, "absent") for name in absent)]:
        yield f'<th scope="col">{escape(name)}<br><small>{escape(note)}</small></th>'
    yield "</tr></thead>"
    hatched = "".join(
        f'<td class="absent" title="absent: {escape(why)}"></td>' for why in absent.values()
    )
    variants = dict.fromkeys((outcome.estimator, outcome.variant) for outcome in outcomes)
    for estimator in dict.fromkeys(estimator for estimator, _ in variants):
        wide = 1 + len(columns) + len(absent)
        yield f'<tbody><tr class="group"><th scope="rowgroup" colspan="{wide}">{escape(estimator)}</th></tr>'
        for variant in (variant for owner, variant in variants if owner == estimator):
            row = "".join(cell(cells.get((estimator, variant, column), [])) for column in columns)
            yield f'<tr><th scope="row">{escape(variant)}</th>{row}{hatched}</tr>'
        yield "</tbody>"
    yield "</table></div>"


def cell(outcomes: Sequence[Outcome]) -> str:
    """Return one cell of a heat map."""
    if not outcomes:
        return '<td class="none" title="not run">&middot;</td>'
    found = worst(outcomes)
    told = f"{len(outcomes)} cases; worst: {found.label}, {found.fixture}, "
    told += found.where.removesuffix("[]") if found.agrees else reason(found)
    blind = sum(outcome.blind for outcome in outcomes)
    mark = (
        ""
        if found.agrees and not blind
        else ' class="bad"'
        if not found.agrees
        else ' class="blind"'
    )
    told += f"; {blind} blind" if blind else ""
    text = "blind" if blind == len(outcomes) else shown(found)
    return f'<td{mark} style="{colour(share(found))}" title="{escape(told)}">{text}</td>'


def colour(of_limit: float) -> str:
    """Return calm blue far below the limit, green, amber near it, red above; how light it is, the page's scheme decides."""
    if not of_limit <= 1.0:
        return "--hue:4;--strength:75%"
    near = max(0.0, 1.0 + math.log10(max(of_limit, 1e-9)) / 2.0)  # 0 at a hundredth of the limit
    return f"--hue:{200 - 158 * near**3:.0f};--strength:{38 + 40 * near**3:.0f}%"


def histograms(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield one small picture for each backend and mode: how many cases have which error."""
    columns = list(dict.fromkeys((outcome.backend, outcome.mode) for outcome in outcomes))
    width = LEFT + BIN * BINS_PER_DECADE * DECADES
    limit = LEFT + BIN * BINS_PER_DECADE * DECADES_BELOW
    for backend, mode in columns:
        counts = [0] * (BINS_PER_DECADE * DECADES)
        for outcome in outcomes:
            if (outcome.backend, outcome.mode) == (backend, mode):
                counts[bin_of(share(outcome))] += 1
        name = escape(f"{backend} {mode}")
        ticks = 18 if (backend, mode) == columns[-1] else 0
        yield f'<svg viewBox="0 0 {width} {HEIGHT + 6 + ticks}" width="100%" role="img" aria-label="errors of {name}">'
        yield f'<text x="0" y="{HEIGHT - 4}">{name}</text>'
        yield f'<line class="axis" x1="{LEFT}" x2="{width}" y1="{HEIGHT}" y2="{HEIGHT}"/>'
        yield f'<line class="limit" x1="{limit}" x2="{limit}" y1="0" y2="{HEIGHT}"/>'
        for number, count in enumerate(counts):
            x, tall = LEFT + BIN * number, HEIGHT * 0.95 * count / max(counts)
            kind = "over" if x >= limit else "bar"
            place = f'x="{x + 1}" y="{HEIGHT - tall:.1f}" width="{BIN - 2}" height="{tall:.1f}"'
            if count:
                yield f'<rect class="{kind}" {place}><title>{count} cases</title></rect>'
        if ticks:
            yield from axis(width)
        yield "</svg>"


def bin_of(of_limit: float) -> int:
    """Return the bin of an error; those at either end hold everything beyond, and the limit itself is not above it."""
    place = (math.log10(max(min(of_limit, 1e9), 1e-9)) + DECADES_BELOW) * BINS_PER_DECADE
    return max(0, min(BINS_PER_DECADE * DECADES, math.ceil(place)) - 1)


def axis(width: int) -> Iterator[str]:
    """Yield the numbers under the last histogram."""
    for decade in range(DECADES + 1):
        told = f"{4 * 10.0 ** (decade - DECADES_BELOW):g}"
        anchor = "start" if decade == 0 else "end" if decade == DECADES else "middle"
        x = LEFT + BIN * BINS_PER_DECADE * decade
        yield f'<text x="{min(x, width)}" y="{HEIGHT + 18}" text-anchor="{anchor}">{told}</text>'


def disagreements(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the list of what disagrees, and where first."""
    failed = [outcome for outcome in outcomes if not outcome.agrees]
    if not failed:
        return
    yield "<h2>Disagreements</h2><p>Each at its first stage that differs.</p><ul>"
    for outcome in failed:
        case = f"<code>{escape(outcome.label)}</code>, {escape(outcome.fixture)}"
        yield f"<li>{escape(outcome.backend)} ({escape(outcome.mode)}), {case}: {escape(reason(outcome))}</li>"
    yield "</ul>"


def blind_cases(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """Yield the list of what agrees and could hardly do otherwise."""
    found = [outcome for outcome in outcomes if outcome.blind]
    if not found:
        return
    yield "<h2>Blind</h2><p>These agree, and would with an error too.</p><ul>"
    for outcome in found:
        case = f"<code>{escape(outcome.label)}</code>, {escape(outcome.fixture)}"
        yield f"<li>{escape(outcome.backend)} ({escape(outcome.mode)}), {case}: {escape(blindness(outcome))}</li>"
    yield "</ul>"


def footer(absent: Mapping[str, str], unchecked: Sequence[str]) -> Iterator[str]:
    """Yield what is absent and the versions of what is not."""
    found = [
        f"Python {platform.python_version()}",
        f"pgcore {pgcore.__version__}",
        f"numpy {np.__version__}",
    ]
    for entry in registry().providers("backends"):
        package, version = entry.provider.requires, version_found(entry.provider)
        if package is not None and version is not None:
            found.append(f"{package} {version}")
    yield "<footer>"
    for name, why in absent.items():
        yield f"<div>absent: {escape(name)} ({escape(why)})</div>"
    for line in unchecked:
        yield f"<div>{escape(line)}</div>"
    yield f"<div>{escape(', '.join(found))}</div></footer>"
