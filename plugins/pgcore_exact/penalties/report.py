"""The text and the JSON of `pgcore audit --penalties`."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pgcore_check.proofs import message_of
from pgcore_exact.penalties.audit import DIVERGENCES, PenaltyAudit, audit_penalty, has_reference
from pgcore_exact.penalties.forms import penalty_forms
from pgcore_exact.process.mdp import MDP

__all__ = ["PenaltyRow", "json_of_penalties", "penalty_rows", "table_of_penalties"]


@dataclass(frozen=True, slots=True)
class PenaltyRow:
    """One form of a penalty: its audit, or the reason for its absence.

    Attributes:
        label: Name and options.
        audit: The audit; None where there is none.
        error: The error of one that failed, on one line.
    """

    label: str
    audit: PenaltyAudit | None = None
    error: str | None = None

    @property
    def refuted(self) -> bool:
        """Whether a claim is refuted, or the audit failed."""
        return self.error is not None or (self.audit is not None and self.audit.refuted)


def penalty_rows(mdp: MDP, seed: int) -> Iterator[PenaltyRow]:
    """Yield a row for every registered penalty in each of its forms; see `penalty_forms`.

    Args:
        mdp: The process.
        seed: Of the policies.
    """
    for label, penalty in penalty_forms():
        if isinstance(penalty, str):
            yield PenaltyRow(label, error=penalty)
        elif not has_reference(penalty):
            yield PenaltyRow(label)
        else:
            try:
                yield PenaltyRow(label, audit_penalty(penalty, mdp, seed=seed))
            except Exception as problem:  # noqa: BLE001 - a plugin's code may raise anything
                yield PenaltyRow(label, error=message_of(problem))


def table_of_penalties(rows: Sequence[PenaltyRow], process: str) -> str:
    """Return the table of all penalties, then the refuted claims and the verdict."""
    heads = [formula.replace("reference", "ref") for formula in DIVERGENCES.values()]
    table = [
        ["", "claims the", "", "at the visited states", "", "", "", "over an episode", "", "", ""],
        ["penalty", "gradient of", "off-policy", *(2 * [head for head in heads for _ in "12"])],
        ["", "", "", *(4 * ["on", "off"])],
    ]
    audited = [(row.label, row.audit) for row in rows if row.audit is not None]
    table += [[label, *claims_of(audit), *figures_of(audit)] for label, audit in audited]
    widths = [max(map(len, column)) for column in zip(*table[1:], strict=True)]
    lines = [process, "relative errors of the expected derivative", ""]
    for cells in table:
        padded = (cell.ljust(width) for cell, width in zip(cells, widths, strict=True))
        lines.append("  ".join(padded).rstrip())
    return "\n".join([*lines, "", *remarks(rows)]) + "\n"


def claims_of(audit: PenaltyAudit) -> tuple[str, str]:
    """Return both claims as words, with `!` where one is refuted and `?` where one is open."""
    marks = {"confirmed": "", "refuted": " !", "open": " ?"}
    of, off_policy = audit.verdicts
    gradient_of = DIVERGENCES.get(str(of.stated), "none")
    return (
        gradient_of + marks[of.verdict],
        ("yes" if off_policy.stated else "no") + marks[off_policy.verdict],
    )


def figures_of(audit: PenaltyAudit) -> list[str]:
    """Return the errors: at the visited states and over an episode, by divergence, on and off."""
    pairs = (audit.on_policy, audit.off_policy), (audit.episode, audit.off_policy_episode)
    return [f"{side[name]:.2g}" for pair in pairs for name in DIVERGENCES for side in pair]


def remarks(rows: Sequence[PenaltyRow]) -> list[str]:
    """Return the refuted claims, the failed and the unaudited penalties, and the verdict."""
    lines: list[str] = []
    for row in rows:
        if row.error is not None:
            lines.append(f"{row.label}: {row.error}")
        for verdict in () if row.audit is None else row.audit.verdicts:
            if verdict.verdict == "refuted":
                claim = f"{verdict.claim}={verdict.stated}"
                lines.append(f"{row.label}: {claim} is refuted: {verdict.figure}")
    bad = f"{len(lines)} refuted (!) or not to be audited" if lines else "none refuted"
    unread = [row.label for row in rows if row.audit is None and row.error is None]
    if unread:
        lines.append(f"not audited: {', '.join(unread)} (no reference policy)")
    audits = [row.audit for row in rows if row.audit is not None]
    lines.append(f"{2 * len(audits)} claims of {len(audits)} penalties: {bad}")
    return lines


def json_of_penalties(rows: Sequence[PenaltyRow], process: str) -> str:
    """Return all rows as JSON."""
    penalties = [
        {"label": row.label, "refuted": row.refuted, "error": row.error, **fields_of(row.audit)}
        for row in rows
    ]
    return json.dumps({"process": process, "penalties": penalties}, indent=1) + "\n"


def fields_of(audit: PenaltyAudit | None) -> Mapping[str, Any]:
    """Return an audit's fields as JSON has them."""
    if audit is None:
        return {}
    errors = ("on_policy", "off_policy", "episode", "off_policy_episode")
    figures = {name: dict(getattr(audit, name)) for name in errors}
    return figures | {"verdicts": [asdict(verdict) for verdict in audit.verdicts]}
