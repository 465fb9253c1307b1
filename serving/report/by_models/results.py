"""The sections of a report without gold: what the run's own models say of SFT and policy, and what that is worth."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.model_verdict import KEPT, amount, limit_text, measure_name, meets_limits
from serving.report.blocks.blocks import Figure, Gallery, Note, Row, Section, Table, Tile, cell_figure, plain
from serving.report.by_gold.pictures import short_category
from serving.report.by_models import wording as labels
from serving.report.by_models.pictures import answer_planes, group_picture
from serving.report.by_models.trust import guards
from serving.report.run_files import RunFiles, missing_note
from serving.summary import Candidate, SelectionFigures

RESULTS, LIMITS = "SFT against the trained policy", "The limits, by the models that were optimised"
PLANE, GROUPS = "The reward-cost plane, before and after", "By tag and category of the prompt"


def scored_tiles(scored: labels.Scored) -> list[Tile]:
    """Headline figures on the kept prompts: before and after."""
    if KEPT not in scored.get("sets", {}):
        return []
    note, tiles = "kept prompts, by the run's models", []
    headline = ["reward", *(f"measure/{name}" for name in scored["constraints"]), "refusal"]
    for figure in (name for name in headline if name in scored["figures"]):
        cells = labels.pair(scored, ("sets", KEPT, "all"), figure, None)
        if len(cells) == 2 and cells[1].value is not None:
            tiles.append(Tile(labels.figure_title(figure, scored), cells[0], cells[1], note))
    win = scored["wins"].get(KEPT, {}).get("reward")
    if win is not None and win["value"] is not None:
        cell = cell_figure(win, share=True, key=labels.key_of(("wins", KEPT, "reward")))
        tiles.append(Tile("Policy over SFT, by reward", None, cell, "share of kept prompts, ties half"))
    return tiles


def scored_results(run: RunFiles) -> Section:
    """SFT against the policy on every set of prompts, win rates, and differences paired by prompt."""
    scored = run.scored
    if not scored:
        return Section("results", RESULTS, [missing_note(run, "summary", "evaluation")])
    confidence = 100 * float(scored["confidence"])
    lead = (
        f"By the scores of the run's own models, with {confidence:g} % intervals over prompts. No one labelled these "
        "answers, and a policy can learn to please the models that trained it: read a sample of the conversations. "
        "“Better” and “worse”, by the score, stand where the difference paired by prompt excludes zero."
    )
    return Section("results", RESULTS, [_set_table(scored), _win_table(scored), _difference_table(scored)], lead)


def _set_table(scored: labels.Scored) -> Table:
    sets = list(scored["sets"])
    rows = tuple(
        Row(
            labels.figure_title(figure, scored),
            tuple(
                labels.pair(scored, ("sets", name, "all"), figure, scored["differences"][name]["all"].get(figure))
                for name in sets
            ),
        )
        for figure in labels.shown_figures(scored)
    )
    return Table("SFT and trained policy on the same prompts", "Figure", tuple(map(labels.set_title, sets)), rows)


def _win_table(scored: labels.Scored) -> Table:
    sets = list(scored["wins"])
    signals = list(dict.fromkeys(signal for name in sets for signal in scored["wins"][name]))
    rows = tuple(
        Row(
            labels.signal_title(signal, scored),
            tuple(
                (cell_figure(scored["wins"][name].get(signal), share=True, key=labels.key_of(("wins", name, signal))),)
                for name in sets
            ),
        )
        for signal in signals
    )
    caption = "Share of prompts on which the policy has the better score than SFT, ties counting half (Wilson)"
    return Table(caption, "By", tuple(map(labels.set_title, sets)), rows)


def _difference_table(scored: labels.Scored) -> Table:
    sets = list(scored["differences"])
    rows = []
    for figure in labels.shown_figures(scored):
        cells = []
        for name in sets:
            cell = scored["differences"][name]["all"].get(figure)
            key = labels.key_of(("differences", name, "all", figure))
            tone = labels.mark(scored, figure, cell)
            share = scored["figures"][figure]["share"]
            cells.append((cell_figure(cell, share=share, key=key, signed=True, mark=tone),))
        rows.append(Row(labels.figure_title(figure, scored), tuple(cells)))
    caption = "Paired differences: policy less SFT on the same prompts"
    return Table(caption, "Figure", tuple(map(labels.set_title, sets)), tuple(rows), folded=True)


def scored_limits(run: RunFiles) -> Section:
    """Every constraint's measure against its limit, and what its cost is worth."""
    scored = run.scored
    if not scored:
        return Section("limits", LIMITS, [missing_note(run, "summary", "evaluation")])
    if not scored["constraints"]:
        return Section("limits", LIMITS, [Note("This run has no constraint.")])
    lead = (
        "Nothing here is certified: there are no labels of these answers. The upper bound is of the promoted snapshot on "
        "the selection prompts, the values are on prompts that nothing else used."
    )
    rows = tuple(_limit_row(scored, name) for name in scored["constraints"])
    columns = ("Measure", "Value", "Limit", "Upper bound at selection", "Judged by", "Behind its zero")
    blocks: list[Any] = [Table("One row per constraint", "Constraint", columns, rows)]
    blocks += [_zero_note(name, about) for name, about in scored["constraints"].items() if not about["safety_labels"]]
    if not meets_limits(scored):
        blocks.insert(0, Note("No snapshot met its limits; the one nearest to them was promoted.", tone="bad"))
    return Section("limits", LIMITS, blocks, lead)


def _limit_row(scored: labels.Scored, name: str) -> Row:
    about, figure = scored["constraints"][name], f"measure/{name}"
    bound = scored["promoted"]["upper_bound"][name]
    value = labels.pair(scored, ("sets", KEPT, "all"), figure, None)
    key = labels.key_of(("promoted", "upper_bound", name))
    zero = "safety labels" if about["safety_labels"] else "a declared borderline" if about["zero"] else "the scorer"
    return Row(
        name,
        (
            (plain(measure_name(name, about)),),
            value,
            (Figure(limit_text(about), key=labels.key_of(("constraints", name, "limit")), value=about["limit"]),),
            (Figure(amount(bound, about), key=key, value=bound),),
            (plain(f"its {about['judge']}"),),
            (plain(zero),),
        ),
    )


def _zero_note(name: str, about: Mapping[str, Any]) -> Note:
    zero = about["zero"]
    if zero is None:
        text = f"No safety label stands behind the cost “{name}”: above 0 is above the zero of its {about['judge']}."
        return Note(text, tone="warning")
    return Note(
        f"The cost “{name}” is {zero['warning']}. Its zero is {zero['method']}; {100 * zero['less_safe_above']:.0f} % of the "
        f"less safe responses are above it, {100 * zero['safer_below']:.0f} % of the safer ones at or below it.",
        tone="warning",
    )


def scored_promotion(run: RunFiles) -> list[Section]:
    """Which snapshot was promoted, and what the loop's guards measured; nothing before there is a summary."""
    summary = run.summary
    if summary is None or summary.selection is None or summary.ppo is None or not run.scored:
        return []
    return [_promotion(run.scored, summary.selection), guards(summary.ppo, summary.selection)]


def _promotion(scored: labels.Scored, selection: SelectionFigures) -> Section:
    has_reward = "reward" in scored["figures"]
    rows = tuple(
        Row(f"step {candidate.step}", _candidate_cells(scored, index, candidate, selection.promoted_step, has_reward))
        for index, candidate in enumerate(selection.candidates)
    )
    columns = [
        title
        for name, about in scored["constraints"].items()
        for title in (measure_name(name, about), f"Upper bound, {name}")
    ]
    lead = "The snapshot of the highest reward whose upper bound meets every limit, on prompts that serve no other purpose."
    table = Table("Snapshots on the selection prompts", "Snapshot", ("Reward", *columns, "Verdict"), rows)
    return Section("promotion", "Which snapshot was promoted", [table], lead)


def _candidate_cells(
    scored: labels.Scored, index: int, candidate: Candidate, promoted: int, has_reward: bool
) -> tuple[tuple[Figure, ...], ...]:
    key = f"selection.candidates.{index}"
    reward = Figure(f"{candidate.helpfulness:.2f}", key=f"{key}.helpfulness", value=candidate.helpfulness)
    cells: list[tuple[Figure, ...]] = [(reward if has_reward else plain(None),)]
    for name, about in scored["constraints"].items():
        measured, bound = candidate.measures[name].model_dump(), candidate.upper_bound[name]
        cells.append((cell_figure(measured, share=about["measure"] == "rate", key=f"{key}.measures.{name}"),))
        cells.append((Figure(amount(bound, about), key=f"{key}.upper_bound.{name}", value=bound),))
    verdict = ("feasible" if candidate.feasible else "not feasible") + (
        ", promoted" if candidate.step == promoted else ""
    )
    return (*cells, (plain(verdict),))


def scored_planes(run: RunFiles) -> Section:
    """The scores of SFT's and the policy's answers to the kept prompts."""
    pictures = tuple(answer_planes(run.answers, KEPT, run.labelled or ()))
    if pictures:
        return Section("plane", PLANE, [Gallery(pictures)])
    if run.answers:
        return Section("plane", PLANE, [Note("There is no plane without both a reward and a constraint.")])
    return Section("plane", PLANE, [missing_note(run, "samples")])


def scored_categories(run: RunFiles) -> Section:
    """Every set by tag and by category, with differences after Holm."""
    scored = run.scored
    if not scored:
        return Section("categories", GROUPS, [missing_note(run, "summary", "evaluation")])
    blocks: list[Any] = []
    for name, prompt_set in scored["sets"].items():
        for kind in ("tags", "categories"):
            blocks += _group_blocks(scored, name, kind)
        if sum(prompt_set["left_out"].values()):
            tags, categories = prompt_set["left_out"]["tags"], prompt_set["left_out"]["categories"]
            blocks.append(
                Note(
                    f"{labels.set_title(name)}: {tags} tags and {categories} categories have too few prompts, or too many "
                    "others have more, to be listed."
                )
            )
    lead = "Marks are after Holm's correction over every tag and category of the page, figure by figure."
    return Section("categories", GROUPS, blocks or [Note("The prompts have neither tags nor categories.")], lead)


def _group_blocks(scored: labels.Scored, name: str, kind: str) -> list[Any]:
    groups = scored["sets"][name][kind]
    if not groups:
        return []
    title = f"{labels.set_title(name)}, by {'tag' if kind == 'tags' else 'category'}"
    figures = [
        figure_name
        for figure_name in labels.shown_figures(scored)
        if figure_name not in ("reward_test", "response_tokens")
    ]
    rows = tuple(
        Row(
            short_category(group),
            tuple(
                labels.pair(
                    scored, ("sets", name, kind, group), figure, scored["differences"][name][kind][group].get(figure)
                )
                for figure in figures
            ),
        )
        for group in groups
    )
    table = Table(title, "Prompts", tuple(labels.figure_title(figure, scored) for figure in figures), rows, folded=True)
    pictures = [
        group_picture(f"{title}: mean cost “{constraint}”", groups, f"cost/{constraint}", "mean cost (line: its zero)")
        for constraint in scored["constraints"]
    ]
    shown_pictures = tuple(shown_picture for shown_picture in pictures if shown_picture is not None)
    return [*([Gallery(shown_pictures)] if shown_pictures else []), table]
