"""The planner: published sizes and formulas, what fits and what does not, a better split, and calibrations that fit themselves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from cluster.resources.planning import hardware
from cluster.resources.planning.memory import Sharding, micro_tokens, role_memory
from cluster.resources.planning.paper import BEGIN, END, paper_table
from cluster.resources.planning.plan import check_devices, make_plan, remedies, with_value
from cluster.resources.planning.rates import assumed_rates, save_rates
from cluster.resources.planning.search import better_split, fastest_split
from cluster.resources.planning.sizes import named_shape, pretrained_shape, shape_of
from cluster.resources.planning.workload import read_workload
from configs.exits import ConfigError, DataError, Exit, SteelyardError
from configs.load import load_settings
from configs.schema.resources import ResourceSettings
from configs.schema.supervised import ModelSettings
from tests.cluster.planning_questions import beaver, measured, question, run
from tests.paths import ROOT

PAGE = ROOT / "docs" / "planning.md"


# --- sizes ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "parameters"), [("7b", 6.738e9), ("13b", 13.016e9), ("8b", 8.030e9), ("70b", 68.977e9)]
)
def test_published_models_have_their_published_parameters(name: str, parameters: float) -> None:
    assert named_shape(name).parameters == pytest.approx(parameters, rel=1e-3)


def test_other_sizes_are_about_what_was_asked() -> None:
    for billions in (1, 3, 34):
        assert named_shape(f"{billions}b").parameters == pytest.approx(billions * 1e9, rel=0.2)


def test_the_model_from_scratch_is_counted_exactly() -> None:
    from learner.models.modules import build_tokenizer, new_policy

    settings = load_settings("quickstart").model
    shape = shape_of(load_settings("quickstart"), None)
    tokenizer = build_tokenizer([f"word{index}" for index in range(shape.vocabulary - 6)], settings.max_length)
    assert new_policy(settings, tokenizer, 0).num_parameters() == shape.parameters


def test_sizes_are_read_from_a_config_json(tmp_path: Path) -> None:
    sizes = {"hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32, "vocab_size": 128256}
    more = {"num_key_value_heads": 8, "intermediate_size": 8192, "tie_word_embeddings": True, "head_dim": 64}
    (tmp_path / "config.json").write_text(json.dumps(sizes | more))
    shape = pretrained_shape(ModelSettings(path=str(tmp_path)))
    assert shape.parameters == pytest.approx(1.2358e9, rel=1e-3)  # Llama 3.2 1B
    (tmp_path / "config.json").write_text(json.dumps({"hidden_size": 2048}))
    with pytest.raises(DataError, match="num_hidden_layers; give the size"):
        pretrained_shape(ModelSettings(path=str(tmp_path)))


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("stage", "gigabytes"), [(0, 120.0), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_model_states_are_those_of_the_zero_papers_figure_1(stage: int, gigabytes: float) -> None:
    """7.5B parameters on 64 ranks in 16 bit: 120, 31.4, 16.6 and 1.9 GB. We add float32 copies of gradients below stage 2."""
    from cluster.resources.planning.memory import _zero_states

    states = _zero_states(7.5e9, 2, 64, stage, offload=False)
    extra = {0: 15.0, 1: 15.0}.get(stage, 0.0)
    assert sum(states.values()) / 1e9 == pytest.approx(gigabytes + extra, rel=0.02)


def test_a_cache_holds_keys_and_values_of_every_layer() -> None:
    assert named_shape("7b").kv_bytes_per_token(2) == 524288  # half a megabyte a token: 2 x 32 layers x 4096 x 2 bytes
    assert named_shape("70b").kv_bytes_per_token(2) == 327680  # fewer, for its 8 key-value heads


def test_checkpointing_smaller_passes_and_offloading_save_memory() -> None:
    work, shape = read_workload(beaver()), named_shape("7b")

    def needed(*overrides: str) -> float:
        roles = role_memory(beaver(*overrides).resources, shape, work)
        return next(one for one in roles if one.role == "learner ranks").device_bytes

    present = needed()
    assert needed("resources.learner.checkpoint_activations=true") < present
    assert needed("resources.learner.tokens_per_micro_batch=2048") < present
    assert needed("resources.learner.offload=false") > present
    assert needed("resources.learner.zero_stage=1") > present


def test_a_micro_batch_is_no_larger_than_the_ranks_share() -> None:
    settings = beaver("resources.learner.tokens_per_micro_batch=null")
    work = read_workload(settings)
    assert micro_tokens(settings.resources.learner, work) == 128 / 4 * 512
    many = settings.resources.learner.model_copy(update={"ranks": 64})
    assert micro_tokens(many, work) == 2 * 512


# --- fits or not ------------------------------------------------------------------------------------------------------


def test_the_papers_preset_fits_eight_gpus_of_80_gb() -> None:
    plan = make_plan(question(beaver()))
    assert plan.fits and plan.gpus_in_use == 8
    assert plan.step_seconds == pytest.approx(sum(phase.seconds for phase in plan.phases))


def test_what_does_not_fit_is_told_with_how_much_and_what_would() -> None:
    settings = beaver("resources.scorers.colocate=true")
    plan = make_plan(question(settings))
    assert [one.role for one in plan.shortages] == ["scorers"]
    said = plan.shortages[0].describe()
    assert said.startswith("scorers need ") and said.endswith(" GB too much")
    assert "resources.scorers.colocate=false" in remedies(plan)
    for text in remedies(plan):
        fixed = make_plan(question(beaver("resources.scorers.colocate=true", *text.split())))
        assert fixed.fits, text
    assert make_plan(question(settings, gpu="h200:8")).fits


def test_colocated_and_mixed_actors_share_gpus_and_must_fit_on_them_together() -> None:
    apart = make_plan(question(beaver(), gpu="h200:8"))
    colocated = make_plan(question(beaver("resources.placement=colocated"), gpu="h200:8"))
    assert apart.pair is None and apart.gpus_in_use == 8
    assert colocated.gpus_in_use == 7 and colocated.fits  # one engine sits beside one of four ranks
    assert colocated.pair is not None and colocated.pair.sleeps
    guest, ranks = colocated.pair.guest.device_bytes, colocated.pair.ranks.device_bytes
    assert max(guest, ranks) < colocated.pair.device_bytes < guest + ranks
    assert "sleeping and waking" in colocated.phase("publish").parts
    one_scorer = ("resources.scorers.colocate=true", "resources.learner.tokens_per_micro_batch=2048")
    mixed = make_plan(question(beaver("resources.placement=mixed", *one_scorer), gpu="h200:8"))
    assert mixed.gpus_in_use == 5 and mixed.pair is not None and not mixed.pair.sleeps
    assert mixed.pair.device_bytes > mixed.pair.guest.device_bytes + mixed.pair.ranks.device_bytes


def test_two_actors_that_fit_alone_and_not_together_are_told() -> None:
    plan = make_plan(question(beaver("resources.placement=mixed", "resources.scorers.colocate=true"), gpu="h200:8"))
    assert [one.role for one in plan.shortages] == ["scorers and learner ranks together"]
    assert "need" in plan.shortages[0].describe() and remedies(plan)
    for text in remedies(plan):
        again = beaver("resources.placement=mixed", "resources.scorers.colocate=true", *text.split())
        assert make_plan(question(again, gpu="h200:8")).fits, text


def test_engines_that_sleep_keep_their_weights_on_the_host_and_trainers_come_before_them() -> None:
    plan = make_plan(question(beaver("resources.placement=colocated", "resources.supervised.workers=8"), gpu="h200:8"))
    assert plan.fits  # eight trainers and no generator beside them
    crowded = make_plan(question(beaver("resources.supervised.workers=8"), gpu="h200:8"))
    assert any(one.role == "training before the loop's actors" for one in crowded.shortages)
    assert plan.pair is not None and plan.pair.host_bytes == pytest.approx(2 * named_shape("7b").parameters)


def test_too_few_gpus_are_a_shortage_too() -> None:
    plan = make_plan(question(beaver(), gpu="h100:4"))
    assert any(one.unit == "GPUs" and one.missing == 4 for one in plan.shortages)


def test_seventy_billion_do_not_fit_as_built_and_the_paper_says_what_lacks() -> None:
    settings = beaver()
    plan = make_plan(question(settings, size="70b", nodes=8))
    assert not plan.fits
    sharded = replace(plan.question, sharding=Sharding(tensor_parallel=4, sharded_load=True))
    before, after = (
        role_memory(settings.resources, one.shape, one.work, sharding=one.sharding) for one in (plan.question, sharded)
    )
    for role in ("generators", "scorers of the reference"):
        sizes = [next(one for one in roles if one.role == role).device_bytes for roles in (before, after)]
        assert sizes[1] < sizes[0] / 2


def test_idle_gpus_and_missing_gpus_are_refused() -> None:
    with pytest.raises(ConfigError, match="next to idle GPUs; add resources"):
        check_devices(ResourceSettings(), hardware.read_cluster("h100:8", 1))
    with pytest.raises(ConfigError, match=r"resources\.generators\.gpus.* ask for GPUs"):
        check_devices(beaver().resources, hardware.read_cluster("cpu:2", 1))


# --- time -------------------------------------------------------------------------------------------------------------


def test_more_of_a_role_makes_its_phase_shorter() -> None:
    plan = make_plan(question(beaver(), nodes=4))
    resources = plan.question.resources
    engines = make_plan(plan.question.with_resources(with_value(resources, "generators", "count", 4)))
    ranks = make_plan(plan.question.with_resources(with_value(resources, "learner", "ranks", 8)))
    scorers = make_plan(plan.question.with_resources(with_value(resources, "scorers", "replicas", 4)))
    assert ranks.phase("learn").seconds < plan.phase("learn").seconds
    assert scorers.phase("rollout").seconds < plan.phase("rollout").seconds
    assert sum(
        engines.phase("rollout").parts[name] for name in engines.phase("rollout").parts if name.startswith("gen")
    ) < sum(plan.phase("rollout").parts[name] for name in plan.phase("rollout").parts if name.startswith("gen"))
    assert engines.phase("publish").seconds > plan.phase("publish").seconds  # the tree is deeper


def test_decoding_few_sequences_is_bound_by_memory_bandwidth_and_many_by_compute() -> None:
    few = make_plan(question(beaver("ppo.batch_size=8", "ppo.minibatch_size=8", "ppo.ptx_batch_size=8")))
    assert "generation: memory bandwidth" in few.phase("rollout").parts
    slow = replace(assumed_rates(few.question.resources, few.question.cluster), decode_flops=1e12)
    assert "generation: compute" in make_plan(replace(few.question, rates=slow)).phase("rollout").parts


def test_a_small_cache_lowers_how_many_are_decoded_at_a_time() -> None:
    small = make_plan(question(beaver("resources.generators.kv_cache_bytes=1000000000")))
    assert small.phase("rollout").seconds > make_plan(question(beaver())).phase("rollout").seconds


def test_cost_counts_every_device() -> None:
    plan = make_plan(question(beaver()))
    assert plan.cost(2.0) == pytest.approx(plan.step_seconds * 1000 / 3600 * 2.0 * 8)


# --- a better split ---------------------------------------------------------------------------------------------------


def test_the_better_split_fits_and_is_faster() -> None:
    settings = beaver("resources.learner.ranks=1", "resources.scorers.colocate=true")
    plan = make_plan(question(settings))
    better = better_split(settings, plan)
    assert better is not None and better.plan.fits
    again = beaver("resources.learner.ranks=1", "resources.scorers.colocate=true", *better.overrides)
    assert make_plan(question(again)).step_seconds == pytest.approx(better.plan.step_seconds)
    assert better_split(again, make_plan(question(again))) is None


def test_the_better_split_may_share_gpus_and_its_overrides_say_so() -> None:
    settings = beaver()
    asked = question(settings, gpu="h200:8")
    better = better_split(settings, make_plan(asked))
    assert better is not None
    again = beaver(*better.overrides)
    assert make_plan(question(again, gpu="h200:8")).step_seconds == pytest.approx(better.plan.step_seconds)
    shared = better_split(
        beaver("resources.placement=colocated"), make_plan(question(beaver("resources.placement=colocated")))
    )
    assert shared is not None and shared.plan.fits


def test_shared_gpus_are_left_as_they_are() -> None:
    settings = beaver("resources.scorers.gpus=0.5")
    assert fastest_split(settings, question(settings)) is None


# --- calibration ------------------------------------------------------------------------------------------------------


def test_wider_models_go_faster_by_what_was_measured() -> None:
    asked = question(beaver())
    rates = replace(assumed_rates(asked.resources, asked.cluster), measured_hidden=128.0, wide_gain=1.5)
    assert rates.at_width(256).learn_flops == pytest.approx(1.5 * rates.learn_flops)
    assert rates.at_width(128) is rates
    assert rates.at_width(128 * 2**9).learn_flops == pytest.approx(1.5**2 * rates.learn_flops)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_answers_as_tables_and_as_json(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    code, text = run("beaver_7b", "--params", "7b", "--price", "2")
    assert code == 0 and "bottleneck" in text and "samples/s" in text and "rates are assumed" in text
    code, text = run("quickstart", "--gpu", "cpu:2", "--json", "--prompt-tokens", "15", "--response-tokens", "14")
    answer = json.loads(text)
    assert code == 0 and answer["fits"] and answer["work"]["response_tokens"] == 14
    assert set(answer["phases"]) == {"rollout", "learn", "publish"} and answer["cost_per_1000_steps"] is None


def test_the_command_reads_the_calibration_that_is_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    asked = question(beaver())
    save_rates(measured(asked), tmp_path / ".steelyard" / "calibration-h100.json")
    assert "rates: calibrated somewhere" in run("beaver_7b", "--params", "7b")[1]
    assert "rates are assumed" in run("beaver_7b", "--params", "7b", "--assumed")[1]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["beaver_7b", "--params", "7b", "--gpu", "l40s:8"], Exit.UNSATISFIABLE, "too much"),
        (["beaver_7b", "--params", "7b", "--gpu", "b900:8"], Exit.USAGE, "no figures for 'b900'"),
        (["beaver_7b", "--params", "huge"], Exit.USAGE, "is no size"),
        (["beaver_7b", "--params", "7b", "--price", "inf"], Exit.USAGE, "--price inf: give a finite number"),
        (["dpo", "--gpu", "cpu:2"], Exit.USAGE, "has no loop to plan"),
        (["quickstart", "--gpu", "cpu:2", "--response-tokens", "99"], Exit.USAGE, "more than ppo.max_response_tokens"),
        ([], Exit.USAGE, "give a configuration"),
    ],
)
def test_bad_questions_get_one_line(
    arguments: list[str], code: Exit, said: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SteelyardError) as caught:
        run(*arguments)
    assert caught.value.exit_code == code
    assert said in str(caught.value) and "\n" not in str(caught.value)


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_pages_table_is_what_the_command_prints() -> None:
    """Of every size the smallest clusters, which are quick to search; `steelyard plan --table` prints all."""
    text = PAGE.read_text(encoding="utf-8")
    there = text[text.index(BEGIN) : text.index(END)]
    for line in paper_table(gpus=(8, 16)).splitlines():
        assert line in there


def test_every_figure_of_the_hardware_has_a_source() -> None:
    table = json.loads(hardware.TABLE.read_text())
    for kind in [*table["kinds"].values(), *table["models"].values()]:
        assert len(kind["source"]) > 20
    assert set(hardware.kinds()) == {"a100", "h100", "h200", "l40s", "cpu"}
