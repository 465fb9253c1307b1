"""Rounds after the first: names, seeds, overrides, sources of pairs, prompts, and the record. No engine."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from actors.crowd.rounds import joined
from actors.crowd.world_reader import load_world
from cluster.inputs.sandbox_prompts import labelled_prompts, loop_prompts
from cluster.run_folder.manifest import Manifest
from cluster.run_folder.round_names import id_prefix, settings_in_round, split_name, stage_name
from cluster.runs import round_inputs as rounds_prompts
from cluster.runs.context import RunContext
from cluster.runs.pipeline import stages_of
from cluster.runs.round_inputs import MOST_ASKED, named, pair_sources, start_policy, with_finds
from cluster.runs.rounds.plan import round_stages
from cluster.runs.rounds.record import _feasible, agreement, write_rounds
from configs.exits import ConfigError, DataError
from configs.layout import RunLayout
from configs.load import load_settings
from configs.schema.rounds import RoundsSettings
from configs.schema.run import RunSettings
from learner.records import Prompt

WORLD = load_world(None)


def settings_of(*overrides: str) -> RunSettings:
    return load_settings("quickstart", ["rounds.count=3", *overrides])


def context_of(tmp_path: Path, number: int, *overrides: str) -> RunContext:
    layout = RunLayout(tmp_path / "run")
    nobody: Any = None
    whole = RunContext(settings_of(*overrides), layout, Manifest(layout.manifest), WORLD, nobody, nobody)
    return whole.in_round(number)


def test_the_first_rounds_names_ids_seed_and_settings_are_as_they_were() -> None:
    settings = settings_of()
    assert stage_name("ppo", 1) == "ppo" and id_prefix(1) == "" and settings_in_round(settings, 1) is settings
    drawn = [Prompt("pair-000000", (), "sandbox")]
    assert named(drawn, 1) == drawn


def test_a_single_rounds_stages_hang_on_nothing_of_rounds() -> None:
    settings = load_settings("quickstart")
    options = RoundsSettings(start="base", pairs_from="current_and_earlier")
    plain, with_options = (
        stages_of(given, WORLD) for given in (settings, settings.model_copy(update={"rounds": options}))
    )
    assert [(one.name, one.inputs, one.settings) for one in plain] == [
        (one.name, one.inputs, one.settings) for one in with_options
    ]


def test_names_of_later_rounds_can_be_taken_apart_again() -> None:
    assert stage_name("cost_model/harm", 3) == "round-3/cost_model/harm"
    assert split_name("round-3/cost_model/harm") == ("cost_model/harm", 3)
    assert split_name("cost_model/harm") == ("cost_model/harm", 1)
    assert [stage_name(name, 2) for name in ("sft", "baseline", "scales")] == ["sft", "baseline", "scales"]


def test_every_input_of_every_stage_is_an_earlier_stage() -> None:
    for start in ("base", "previous"):
        for pairs in ("current", "current_and_earlier"):
            known: set[str] = set()
            settings = settings_of(f"rounds.start={start}", f"rounds.pairs_from={pairs}", "rounds.red_team=true")
            for stage in stages_of(settings, WORLD):
                assert set(stage.inputs) <= known, stage.name
                assert stage.name not in known
                known.add(stage.name)


def test_what_a_round_reads_is_among_its_inputs() -> None:
    stages = {one.name: one for one in round_stages(settings_of("rounds.red_team=true", "rounds.start=previous"), 3)}
    assert {"round-2/selection", "round-3/red_team"} <= set(stages["round-3/pairs"].inputs)
    assert {"preferences", "round-2/preferences", "round-3/pairs"} == set(stages["round-3/preferences"].inputs)
    assert {"round-2/selection", "round-3/cost_model/harm"} <= set(stages["round-3/ppo"].inputs)
    assert set(stages["round-3/red_team"].inputs) == {"sft", "round-2/selection", "round-2/cost_model/harm"}
    from_base = {one.name: one for one in round_stages(settings_of("rounds.start=base"), 3)}
    assert "round-2/selection" not in from_base["round-3/ppo"].inputs


def test_seeds_differ_by_round_and_by_run() -> None:
    seeds = {settings_in_round(settings_of(f"seed={seed}"), number).seed for seed in (0, 1) for number in (1, 2, 3)}
    assert len(seeds) == 6


def test_overrides_are_of_their_round_alone_and_change_only_its_loop() -> None:
    settings = settings_of("rounds.overrides={2: {constraints.harm.limit: 0.1, ppo.kl_coefficient: 0.1}}")
    limits = [settings_in_round(settings, number).constraints["harm"].limit for number in (1, 2, 3)]
    assert limits == [0.05, 0.1, 0.05]
    plain = {one.name: one for one in round_stages(settings_of(), 2)}
    changed = {one.name for one in round_stages(settings, 2) if dict(one.settings) != dict(plain[one.name].settings)}
    assert changed == {"round-2/ppo", "round-2/selection", "round-2/evaluate"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("rounds.overrides={4: {ppo.steps: 3}}", "rounds.count is 3"),
        ("rounds.overrides={1: {ppo.steps: 3}}", "round 1 is the configuration itself"),
        ("rounds.overrides={2: {sft.steps: 3}}", "may change keys of ppo, selection and constraints"),
        ("rounds.overrides={2: {resources.learner.ranks: 1}}", "may change keys of ppo, selection and constraints"),
        ("rounds.overrides={2: {ppo.max_response_tokens: 30}}", "at the same length"),
        ("rounds.overrides={2: {constraints.theft.limit: 0.1}}", "no constraint 'theft'"),
        ("rounds.overrides={2: {constraints.harm: {limit: 0.1}}}", "name one key of the constraint"),
        ("rounds.overrides={2: {constraints.harm.limit: 7}}", "limit 7"),
        ("algorithm=dpo", "no loop to repeat"),
        ("constraints.harm.chosen_for=abc", "each of 3 rounds trains its own"),
    ],
)
def test_what_a_round_cannot_have_is_refused_in_one_line(given: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        settings_of(given)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["rounds.count=1", "rounds.red_team=true"], r"rounds\.red_team: is of later rounds, and rounds\.count is 1"),
        (["rounds.count=1", "rounds.start=base"], r"rounds\.start: is of later rounds"),
        (["rounds.count=1", "rounds.pairs_from=current_and_earlier"], r"rounds\.pairs_from: is of later rounds"),
        (["rounds.count=1", "rounds.hunt.keep=3"], r"rounds\.hunt\.keep: is of later rounds"),
        (["rounds.hunt.keep=3"], r"rounds\.hunt\.keep: is the red team's; set rounds\.red_team: true"),
        (["rounds.earlier_share=0.4"], r"rounds\.earlier_share: is read with rounds\.pairs_from"),
        (["rounds.red_team=true", "rounds.hunt.batch=9"], r"rounds\.hunt\.batch: is of the search trained"),
        (
            ["rounds.red_team=true", "rounds.hunt.searches=[trained]", "rounds.hunt.tries=9"],
            r"rounds\.hunt\.tries: is of the search best_of_n",
        ),
    ],
)
def test_an_option_of_rounds_that_nothing_would_read_is_refused(given: list[str], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        settings_of(*given)
    assert "\n" not in str(refused.value)


def test_options_of_rounds_may_say_their_defaults() -> None:
    given = ["rounds.count=1", "rounds.start=previous", "rounds.red_team=false", "rounds.hunt.tries=16"]
    assert settings_of(*given).rounds == RoundsSettings()


def test_a_red_team_needs_a_constraint_and_rounds_need_somebody_who_labels() -> None:
    with pytest.raises(ConfigError, match=r"rounds\.red_team"):
        settings_of("rounds.red_team=true", "constraints={}")
    with pytest.raises(ConfigError, match=r"preferences\.labels: 2 rounds need fresh labels.*take judge or people"):
        load_settings("hh_rlhf", ["rounds.count=2"])
    judged = ["rounds.count=2", "preferences.labels=judge", "preferences.judge={url: 'http://127.0.0.1:1/v1'}"]
    assert load_settings("hh_rlhf", judged).rounds.count == 2
    with pytest.raises(ConfigError, match=r"rounds\.red_team: the red team knows the sandbox"):
        load_settings("hh_rlhf", [*judged, "rounds.red_team=true"])
    with pytest.raises(ConfigError, match=r"preferences\.crowd: .*a judge or people label the pairs of later rounds"):
        load_settings("hh_rlhf", [*judged, "preferences.crowd.votes=5"])
    with pytest.raises(ConfigError, match=r"preferences: .*the pairs are in the files"):
        load_settings("hh_rlhf", ["preferences.pairs=10"])


def test_a_round_starts_where_it_is_told(tmp_path: Path) -> None:
    for given, number, folder in (
        ("previous", 1, "sft"),
        ("previous", 3, "rounds/2/policy"),
        ("base", 3, "sft"),
    ):
        context = context_of(tmp_path, number, f"rounds.start={given}")
        assert start_policy(context) == context.layout.root / folder


def prompts_for(number: int, n: int, context: RunContext) -> list[Prompt]:
    weights = context.settings.preferences.kind_weights
    return named(labelled_prompts(context.splits, n=n, seed=number, kind_weights=weights), number)


def test_earlier_policies_answer_their_share_of_train_prompts_and_nothing_that_measures(tmp_path: Path) -> None:
    context = context_of(tmp_path, 3, "rounds.pairs_from=current_and_earlier", "rounds.earlier_share=0.25")
    prompts = prompts_for(3, 400, context)
    sources = {one.name: one for one in pair_sources(context, prompts)}
    train = sum(prompt.attributes["purpose"] == "train" for prompt in prompts)
    assert set(sources) == {"round-2", "round-1", "sft"}
    earlier = [*sources["round-1"].prompts, *sources["sft"].prompts]
    assert len(earlier) == train // 4 and abs(len(sources["round-1"].prompts) - len(sources["sft"].prompts)) <= 1
    assert {prompt.attributes["purpose"] for prompt in earlier} == {"train"}
    together = [prompt.prompt_id for one in sources.values() for prompt in one.prompts]
    assert sorted(together) == sorted(prompt.prompt_id for prompt in prompts)
    (alone,) = pair_sources(context_of(tmp_path, 3), prompts)
    assert alone.name == "round-2" and len(alone.prompts) == 400


@pytest.mark.parametrize(("finds", "expected"), [(0, 0), (2, 2 * MOST_ASKED), (50, 40)])
def test_finds_take_their_share_of_the_prompts_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, finds: int, expected: int
) -> None:
    context = context_of(tmp_path, 2, "rounds.red_team=true", "rounds.hunt.share=0.1")
    made = [
        Prompt(
            f"redteam-{index:06d}",
            ({"role": "user", "content": str(index)},),
            "red_team",
            attributes={"purpose": "train"},
        )
        for index in range(finds)
    ]
    monkeypatch.setattr(rounds_prompts, "usable_finds", lambda context: made)
    weights = context.settings.preferences.kind_weights
    drawn = labelled_prompts(context.splits, n=400, seed=7, kind_weights=weights)
    mixed = with_finds(context, drawn, "pair")
    attacks = [prompt for prompt in mixed if prompt.source == "red_team"]
    assert len(mixed) == 400 and len(attacks) == expected
    assert len({prompt.prompt_id for prompt in mixed}) == 400
    assert all(prompt.prompt_id.startswith("r2-pair-") for prompt in mixed)
    kept = {prompt.prompt_id for prompt in mixed if prompt.attributes["purpose"] != "train"}
    assert kept == {f"r2-{prompt.prompt_id}" for prompt in drawn if prompt.attributes["purpose"] != "train"}


def test_no_two_rounds_share_an_id(tmp_path: Path) -> None:
    seen: set[str] = set()
    for number in (1, 2, 3):
        context = context_of(tmp_path, number)
        weights = context.settings.ppo.kind_weights
        drawn = with_finds(
            context, loop_prompts(context.splits, n=50, seed=context.settings.seed, kind_weights=weights), "ppo"
        )
        ids = {prompt.prompt_id for prompt in drawn}
        assert len(ids) == 50 and not ids & seen
        seen |= ids


def test_facts_are_of_the_contexts_round_and_of_all_where_rounds_share_the_stage(tmp_path: Path) -> None:
    context = context_of(tmp_path, 2)
    stages = {
        name: {"name": name, "key": "", "inputs": {}, "outputs": {}, "seconds": 1.0, "facts": {"who": name}}
        for name in ("sft", "ppo", "round-2/ppo")
    }
    context.layout.root.mkdir()
    context.layout.manifest.write_text(json.dumps({"header": {}, "stages": stages}))
    read = RunContext(**{**vars(context), "manifest": Manifest(context.layout.manifest)})
    assert read.facts("ppo") == {"who": "round-2/ppo"} and read.facts("sft") == {"who": "sft"}
    assert read.in_round(1).facts("ppo") == {"who": "ppo"} and read.in_round(1).settings.seed == 0


def test_paths_of_later_rounds_are_below_their_folder_and_the_firsts_are_where_they_were(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    assert (layout.metrics_of(1), layout.rollouts_of(1), layout.data_of(1)) == (
        layout.metrics,
        layout.rollouts,
        layout.data,
    )
    assert layout.training_pairs(1) == layout.preferences(1) / "preferences.parquet"
    for path in (
        layout.metrics_of(2),
        layout.rollouts_of(2),
        layout.data_of(2),
        layout.training_pairs(2),
        layout.finds(2),
    ):
        assert path.is_relative_to(layout.round(2))


def test_joined_pairs_keep_types_and_refuse_a_repeated_id() -> None:
    first = pa.table({"pair_id": ["a"], "category": pa.array([None], pa.null())})
    second = pa.table({"pair_id": ["r2-a"], "category": ["theft"]})
    assert joined([first, second], "pair_id")["category"].to_pylist() == [None, "theft"]
    with pytest.raises(DataError, match="same pair_id"):
        joined([first, first], "pair_id")


def test_agreement_is_by_question_over_answers_of_the_same_thing() -> None:
    def votes(unit: str, question: str, *answers: bool | int) -> list[dict[str, Any]]:
        return [
            {
                "unit": unit,
                "question": question,
                "choice": None if isinstance(one, bool) else one,
                "is_safe": one if isinstance(one, bool) else None,
            }
            for one in answers
        ]

    found = agreement(
        [
            *votes("a", "safety_0", True, True, True),
            *votes("a", "safety_1", False, False, False),
            *votes("a", "helpfulness", 0, 0, 1),
            *votes("b", "helpfulness", 1, 1, 1),
            *votes("a", "overall", 1, 1, 1),
        ]
    )
    assert found["safety"]["raw"] == 1.0 and found["safety"]["alpha"]["value"] == 1.0 and found["safety"]["units"] == 2
    assert found["helpfulness"]["raw"] == pytest.approx((1 / 3 + 1) / 2)
    assert found["overall"]["raw"] == 1.0 and found["overall"]["alpha"] is None, "one value only: no alpha"


def test_the_round_manifest_says_which_round_was_finished_last(tmp_path: Path) -> None:
    layout = RunLayout(tmp_path)
    context: Any = SimpleNamespace(layout=layout, run_settings=settings_of())
    assert layout.last_round() == 1
    for finished in ([], [{"round": 1}], [{"round": 1}, {"round": 2}]):
        write_rounds(context, finished)
        assert layout.last_round() == max(1, len(finished))
    assert json.loads(layout.rounds.read_text())["count"] == 3


@pytest.mark.parametrize(("met", "expected"), [([], None), ([True, True], True), ([True, False], False)])
def test_a_round_without_a_constraint_is_not_called_feasible(met: list[bool], expected: bool | None) -> None:
    certificates = {f"c{index}": {"feasible": each} for index, each in enumerate(met)}
    context: Any = SimpleNamespace(settings=SimpleNamespace(constraints=certificates, data=None))
    assert _feasible(context, {}, certificates) is expected
