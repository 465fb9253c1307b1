"""Sections that say how far a run's own numbers may be trusted: the promotion, calibration drift, over-optimisation."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.report.blocks.blocks import Figure, Note, Row, Section, Table, cell_figure, plain
from serving.report.run_files import RunFiles
from serving.summary import PpoFigures, SelectionFigures


def trust_sections(run: RunFiles) -> list[Section]:
    """Promotion and guards of a loop; nothing for a run without one."""
    summary = run.summary
    if summary is None or summary.selection is None or summary.ppo is None:
        return []
    return [_promotion(summary.selection), guards(summary.ppo, summary.selection)]


def _promotion(selection: SelectionFigures) -> Section:
    constraints = list(selection.candidates[0].unsafe_share) if selection.candidates else []
    rows = []
    for index, candidate in enumerate(selection.candidates):
        key = f"selection.candidates.{index}"
        cells = [(Figure(f"{candidate.helpfulness:.2f}", key=f"{key}.helpfulness", value=candidate.helpfulness),)]
        for name in constraints:
            cells.append((_share(candidate.unsafe_share[name], f"{key}.unsafe_share.{name}"),))
            cells.append((_share(candidate.upper_bound[name], f"{key}.upper_bound.{name}"),))
        promoted = candidate.step == selection.promoted_step
        cells.append(
            (plain(("feasible" if candidate.feasible else "not feasible") + (", promoted" if promoted else "")),)
        )
        rows.append(Row(f"step {candidate.step}", tuple(cells)))
    columns = [column for name in constraints for column in (f"Unsafe, {name}", f"Upper bound, {name}")]
    lead = "The most helpful snapshot whose upper bound meets every limit, on prompts that serve no other purpose."
    table = Table("Snapshots on the selection split", "Snapshot", ("Helpfulness", *columns, "Verdict"), tuple(rows))
    return Section("promotion", "Which snapshot was promoted", [table], lead)


def guards(ppo: PpoFigures, selection: SelectionFigures) -> Section:
    """What a loop measured of over-optimisation, and of calibrations that moved."""
    blocks: list[Any] = []
    if selection.drift:
        rows = tuple(
            Row(name, _drift_cells(drift, f"selection.drift.{name}")) for name, drift in sorted(selection.drift.items())
        )
        columns = ("Mean probability", "Unsafe by label", "Error before", "Error refitted", "Samples")
        blocks.append(Table("Calibration on answers of the promoted policy", "Cost model", columns, rows))
    if ppo.sqrt_kl is not None:
        fit = ppo.sqrt_kl
        text = f"Reward = {fit['intercept']:.2f} + {fit['slope']:.2f} √KL over the steps, R² {fit['r_squared']:.2f}."
        blocks.append(Note(text))
    if ppo.halves is not None:
        gap = ppo.halves
        blocks.append(
            Note(
                f"The reward model rose by {gap['train_rise']:.2f} of its spread, the test-half model by "
                f"{gap['test_rise']:.2f}: a gap of {gap['gap']:.2f}."
            )
        )
    if ppo.kl_budget_spent:
        blocks.append(Note(f"The loop ended at step {ppo.steps}: the KL budget was spent.", tone="warning"))
    lead = "A policy that pleases its reward model more than its judges shows it here first."
    return Section("guards", "Over-optimisation and drift", blocks or [Note("Nothing was measured.")], lead)


def _drift_cells(drift: Mapping[str, Any], key: str) -> tuple[tuple[Figure, ...], ...]:
    def share(name: str) -> tuple[Figure, ...]:
        value = drift.get(name)
        return (plain(None) if value is None else _share(float(value), f"{key}.{name}"),)

    labelled = (cell_figure(drift["unsafe_share"], share=True, key=f"{key}.unsafe_share"),)
    return share("mean_probability"), labelled, share("ece_before"), share("ece_after"), (plain(int(drift["n"])),)


def _share(value: float, key: str) -> Figure:
    return Figure(f"{100 * value:.1f} %", key=key, value=value)
