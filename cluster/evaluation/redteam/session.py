"""One red team over one or more models: the suite against each, then the automatic red team, then the document."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from actors.redteam.cells import redteam_cells, success_cells
from actors.redteam.drive import Victim, carry_out
from actors.redteam.finds import Find, Origin, find_of, write_finds
from actors.redteam.grammar import Grammar
from actors.redteam.labels import MEANINGS
from actors.redteam.records import Row, row_of, write_rows
from actors.redteam.search import Search
from cluster.evaluation.redteam.hunt import Say, costs_digest, hunt
from cluster.evaluation.redteam.models import Attacked
from cluster.evaluation.redteam.plan import Plan
from cluster.evaluation.redteam.victim import EngineVictim
from cluster.resources.engines import Engines
from configs.exits import DataError

VictimOf = Callable[[Attacked], Victim]
DOCUMENT, ROWS, FINDS, PAGE = "redteam.json", "attacks.parquet", "redteam.parquet", "report.html"


@dataclass
class Outcome:
    """Everything that was found."""

    document: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    finds: list[Find] = field(default_factory=list)


def engine_victims(plan: Plan, engines: Engines) -> VictimOf:
    """Victims on these engines, which hold one model at a time."""
    return lambda model: EngineVictim(engines, model.folder, plan.costs, plan.victim)


def attack_all(plan: Plan, victim_of: VictimOf, say: Say = lambda text: None) -> Outcome:
    """Attack every model of the plan in turn, on the same attacks and seeds.

    Args:
        victim_of: makes the victim of a model; asked for one after another, so that one engine may hold each in turn.

    Raises:
        DataError: a model gave no answer that could be drawn and judged.
    """
    grammar, rows = Grammar(plan.suite), []
    attacks = grammar.plain(plan.targets)
    finds: list[Find] = []
    searches: dict[str, dict[str, Any]] = {}
    missing: dict[str, int] = {}
    for model in plan.models:
        say(f"{model.label}: {len(attacks)} attacks, {plan.samples} samples each")
        victim = victim_of(model)
        results = carry_out(attacks, victim, plan.labeller, samples=plan.samples)
        if not results:
            raise DataError(
                f"{model.label}: no answer could be drawn and judged; look at the generators' and scorers' logs"
            )
        rows += [row_of(model.label, result, plan.labeller.source) for result in results]
        if plan.hunt is not None:
            hunted = hunt(plan.targets, grammar, victim, plan.labeller, plan.hunt, say)
            origin = Origin(model.label, model.digest, costs_digest(dict(plan.costs)), plan.labeller.source)
            finds += [find_of(attack, search, origin) for search in hunted for attack in search.kept]
            rows += _retests(model, hunted, plan.labeller.source)
            searches[model.label] = _searches(model, hunted, plan)
        missing[model.label] = len(attacks) * plan.samples - len(results)
    return Outcome(_document(plan, rows, searches, missing), rows, finds)


def write_outcome(outcome: Outcome, folder: Path) -> list[Path]:
    """Write the document, every conversation, the finds, and the page; returns the files.

    Raises:
        DataError: one cannot be written.
    """
    from serving.report.pages.redteam import write_redteam_page

    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_rows(outcome.rows, folder / ROWS)
        written = [folder / ROWS]
        if outcome.finds:
            write_finds(outcome.finds, folder / FINDS)
            written.append(folder / FINDS)
        path = folder / DOCUMENT
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(outcome.document, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise DataError(f"--out {folder}: the results cannot be written ({error.strerror or error})") from error
    return [*written, path, write_redteam_page(outcome.document, outcome.rows, folder / PAGE)]


def _retests(model: Attacked, searches: Sequence[Search], labels: str) -> list[Row]:
    return [
        row_of(model.label, result, labels, search.name)
        for search in searches
        for attack in search.kept
        for result in attack.retest
    ]


def _searches(model: Attacked, searches: Sequence[Search], plan: Plan) -> dict[str, Any]:
    document = {}
    for search in searches:
        rows = _retests(model, [search], plan.labeller.source)
        document[search.name] = {
            "tried": search.tried,
            "tried_success": search.success,
            "tried_cost": search.mean_cost,
            "kept": len(search.kept),
            "chosen_by_cost": sum(attack.chosen_by for attack in search.kept) / len(search.kept),
            "retests": success_cells(rows, plan.confidence),
            "curve": list(search.curve),
        }
    return document


def _document(
    plan: Plan, rows: Sequence[Row], searches: Mapping[str, Any], missing: Mapping[str, int]
) -> dict[str, Any]:
    suite = plan.suite
    return {
        "suite": {
            "name": suite.name,
            "digest": suite.digest(),
            "strategies": list(dict.fromkeys(form.strategy for form in suite.forms)),
            "forms": len(suite.forms),
            "targets": len(plan.targets),
        },
        "labels": plan.labeller.source,
        "labels_meaning": MEANINGS[plan.labeller.source],
        "scorer": plan.scorer or None,
        "samples": plan.samples,
        "temperature": plan.victim.temperature,
        "max_response_tokens": plan.victim.max_response_tokens,
        "seed": plan.victim.seed,
        "digests": {model.label: model.digest for model in plan.models},
        "missing": dict(missing),
        "notes": list(plan.notes),
        **redteam_cells([row for row in rows if row.search == "suite"], plan.confidence),
        "searches": dict(searches),
    }
