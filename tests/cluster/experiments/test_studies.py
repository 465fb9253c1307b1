import json
import re
from dataclasses import replace
from itertools import pairwise

import pytest
from typer.testing import CliRunner

from cluster.commands.main import app
from cluster.experiments.results.cells import TABLE, Cell, logic_digest, preset_settings
from cluster.experiments.results.page import write_pages
from cluster.experiments.results.plan import Scope
from cluster.experiments.results.rows import write_row
from cluster.experiments.results.status import standing
from cluster.experiments.studies.catalogue import CONSTRAINED, MODELS_ONLY, REWARD_ONLY, STUDIES, find_study
from cluster.experiments.studies.effects import Effect, Finding, Verdict, find, together, verdict_line
from cluster.experiments.studies.readings import less, per_doubling, smaller_share_of_gains, unsafe
from cluster.experiments.studies.standing import standings
from configs.exits import ConfigError
from tests.cluster.made_up_rows import made_up_row


def a_row(arm=CONSTRAINED, seed=0, *, harm=0.01, sft_harm=0.5, help_=2.0, sft_help=1.0):
    """A made-up row of the present code."""
    row = made_up_row(arm, seed, harm=harm, helpful=help_, code=logic_digest())
    before = made_up_row(arm, seed, harm=sft_harm).evaluation["policy"]
    return replace(
        row, overall={**row.overall, "sft": sft_help}, evaluation={"sft": before, "policy": row.evaluation["policy"]}
    )


LINE = re.compile(r"Verdict \([a-o]\): (supported|not supported|undecided) here \(.+\)")
HARM = Effect("harm", lambda rows: rows["arm"], percent=True)


def finding(*values, claim="above", bound=0.0):
    return Finding(replace(HARM, claim=claim, bound=bound), dict(enumerate(values)))


@pytest.mark.parametrize(
    ("values", "claim", "bound", "says"),
    [
        ((0.4, 0.5, 0.6), "above", 0.0, Verdict.SUPPORTED),
        ((-0.4, -0.5, -0.6), "above", 0.0, Verdict.NOT_SUPPORTED),
        ((-0.4, -0.5, -0.6), "below", 0.0, Verdict.SUPPORTED),
        ((-0.4, 0.1, 0.6), "above", 0.0, Verdict.UNDECIDED),
        ((0.4, 0.5, 0.6), "above", 0.45, Verdict.UNDECIDED),
        ((0.4, 0.5, 0.6), "above", 0.9, Verdict.NOT_SUPPORTED),
        ((0.4, 0.5, 0.6), "below", 0.9, Verdict.SUPPORTED),
        ((0.5, 0.5), "above", 0.0, Verdict.UNDECIDED),  # two seeds say nothing
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side(values, claim, bound, says):
    assert finding(*values, claim=claim, bound=bound).verdict_among(1) is says


def test_a_claim_needs_all_its_effects_and_one_against_it_is_enough():
    yes, no, maybe = finding(0.4, 0.5, 0.6), finding(-0.4, -0.5, -0.6), finding(-0.4, 0.1, 0.6)
    assert together([yes, yes]) is Verdict.SUPPORTED
    assert together([yes, maybe]) is Verdict.UNDECIDED
    assert together([yes, maybe, no]) is Verdict.NOT_SUPPORTED
    assert together([no, finding()]) is Verdict.UNDECIDED  # not before every effect has its seeds


def test_each_of_many_effects_can_fail_a_claim_so_each_must_fail_more_clearly():
    barely = finding(-0.002, -0.004, -0.004)
    assert barely.interval["high"] < 0
    assert together([barely]) is Verdict.NOT_SUPPORTED
    assert together([barely, *[finding(-0.4, 0.1, 0.6)] * 3]) is Verdict.UNDECIDED
    yes = finding(0.002, 0.004, 0.004)
    assert together([yes] * 4) is Verdict.SUPPORTED  # all must hold: nothing to correct


def test_the_interval_is_students_over_seeds_by_hand():
    found = finding(1.0, 2.0, 3.0).interval
    assert (found["value"], found["low"], found["high"]) == pytest.approx(
        (2.0, 2 - 4.302653 / 3**0.5, 2 + 4.302653 / 3**0.5)
    )


def test_the_line_says_effect_interval_and_seeds():
    assert verdict_line("a", [finding(0.4, 0.5, 0.6)]) == (
        "Verdict (a): supported here (harm +50.0 % [+25.2, +74.8]; seeds 0, 1, 2)"
    )


def test_seeds_without_all_arms_do_not_count():
    effect = Effect("difference", lambda rows: rows["a"] - rows["b"] if {"a", "b"} <= set(rows) else None)
    assert find(effect, {0: {"a": 3, "b": 1}, 1: {"a": 3}}).by_seed == {0: 2}


def test_every_claim_from_a_to_o_has_a_study_with_arms_that_exist():
    assert [study.letter for study in STUDIES] == list("abcdefghijklmno")
    assert len({study.name for study in STUDIES}) == len(STUDIES)
    for study in STUDIES:
        assert len(study.seeds) == 3
        for cell in study.cells():
            assert cell.arm in preset_settings(cell.preset).arms, study.name
            assert cell.settings().ppo.steps == 60 or cell.arm == "fresh"


def test_sizes_are_more_than_twice_apart_and_as_large_as_they_say():
    from cluster.experiments.studies.catalogue import WEIGHTS

    sizes = []
    for arm, preset in find_study("model_size").arms.items():
        model = preset_settings(preset).model
        width, inner = model.hidden_size, model.intermediate_size
        weights = model.layers * (4 * width * width + 3 * width * inner + 2 * width) + width
        assert weights == WEIGHTS[arm], arm
        sizes.append(weights)
    assert len(sizes) >= 4 and all(2 * small < large for small, large in pairwise(sizes))


def test_fresh_rounds_have_as_many_pairs_and_steps_as_one_batch():
    fresh, whole = Cell("study_fresh", "fresh", 0).settings(), Cell(TABLE, CONSTRAINED, 0).settings()
    assert fresh.ppo.steps * fresh.rounds.count == whole.ppo.steps
    assert abs(fresh.preferences.pairs * fresh.rounds.count - whole.preferences.pairs) < fresh.rounds.count


def test_a_study_is_found_by_name_and_letter_and_a_wrong_one_suggests():
    assert find_study("c") is find_study("constrained")
    with pytest.raises(ConfigError, match="poisoning"):
        find_study("poisonin")


def test_the_slope_is_per_doubling():
    rows = {"small": a_row(), "large": a_row()}
    read = {id(rows["small"]): 1.0, id(rows["large"]): 2.0}
    assert per_doubling({"small": 100, "large": 1600}, lambda row: read[id(row)])(rows) == pytest.approx(0.25)
    assert per_doubling({"small": 100, "none": 400}, lambda row: 1.0)(rows) is None


def test_one_that_is_safe_for_being_useless_gains_nothing():
    constrained = a_row(harm=0.0, sft_harm=0.5, help_=2.0, sft_help=1.0)
    useless = a_row(harm=0.0, sft_harm=0.5, help_=0.5, sft_help=1.0)
    half = a_row(harm=0.2, sft_harm=0.5, help_=1.5, sft_help=1.0)
    read = smaller_share_of_gains("shuffled", CONSTRAINED)
    worse = a_row(harm=0.9, sft_harm=0.5, help_=0.5, sft_help=1.0)
    assert read({CONSTRAINED: constrained, "shuffled": useless}) == 0.0
    assert read({CONSTRAINED: constrained, "shuffled": worse}) == 0.0
    assert read({CONSTRAINED: constrained, "shuffled": half}) == pytest.approx(0.5)


def test_unsafe_weighs_kinds_by_their_tasks():
    row = a_row(harm=0.25, sft_harm=0.5)
    assert unsafe(row) == pytest.approx(0.25) and unsafe(row, "sft") == pytest.approx(0.5)
    assert less(CONSTRAINED, "other", unsafe)({CONSTRAINED: row}) is None


@pytest.fixture
def docs(tmp_path):
    """Rows of studies (a) and (c) on three seeds, as present code would make them."""
    for arm, harm in ((REWARD_ONLY, 0.95), (CONSTRAINED, 0.01)):
        for seed in (0, 1, 2):
            row = a_row(arm, seed=seed, harm=harm + 0.01 * seed, sft_harm=0.5, help_=2.1, sft_help=1.3)
            write_row(row, tmp_path / "results" / "rows")
    return tmp_path


def test_the_list_says_what_each_claims_costs_and_says(docs):
    found = CliRunner().invoke(app, ["study", "--list", "--docs", str(docs)])
    assert found.exit_code == 0, found.output
    lines = [line.strip() for line in found.output.splitlines() if "Verdict" in line]
    assert len(lines) == 15 and all(LINE.fullmatch(line) for line in lines)
    assert "(a) helpful_only          3 of  3 runs, all there; they took 12 min" in found.output
    assert "(m) tension               0 of 15 runs, about" in found.output


def test_a_complete_study_is_told_at_once_without_starting_anything(docs):
    found = CliRunner().invoke(app, ["study", "helpful_only", "--docs", str(docs)])
    assert found.exit_code == 0, found.output
    assert found.output.startswith("Verdict (a): supported here (harm on harmful requests, policy less SFT +46.0 % [")
    as_json = CliRunner().invoke(app, ["study", "a", "--json", "--docs", str(docs)])
    (document,) = json.loads(as_json.output)
    assert document["verdict"] == "supported here" and document["missing"] == []
    assert list(document["effects"][0]["by_seed"]) == ["0", "1", "2"]


def test_rows_of_the_table_without_the_figures_that_a_study_reads_are_made_again(docs):
    by_letter = {each.study.letter: each for each in standings(docs / "results" / "rows", logic_digest())}
    assert not by_letter["c"].missing
    assert [cell.arm for cell in by_letter["l"].missing] == [CONSTRAINED] * 3


def test_the_page_has_a_line_for_every_claim(docs):
    rows, code = docs / "results" / "rows", logic_digest()
    write_pages(standing(rows, Scope(sweep=True), code), docs, standings(rows, code))
    text = (docs / "results.md").read_text()
    assert [line[2:13] for line in text.splitlines() if line.startswith("- Verdict")] == [
        f"Verdict ({letter})" for letter in "abcdefghijklmno"
    ]
    assert "`steelyard study tension` goes on" in text


def test_the_page_shows_every_arms_own_figures_and_what_made_each_row(docs):
    rows, code = docs / "results" / "rows", logic_digest()
    for share, accuracy in ((0, 0.3), (50, 0.6)):
        made = made_up_row(f"harmless_{share}", preset="study_tension", code=code)
        write_row(
            replace(made, figures={"reward/helpfulness/accuracy": 0.7, "reward/harmlessness/accuracy": accuracy}), rows
        )
    poisoned = made_up_row("poisoned", preset="study_poisoning", code=code)
    harm = {"category/animal_abuse/policy": 1.0, "category/self_harm/policy": 0.5, "category/terrorism/policy": 0.1}
    write_row(replace(poisoned, figures=harm), rows)
    write_pages(standing(rows, Scope(sweep=True), code), docs, standings(rows, code))
    text = (docs / "results.md").read_text()
    assert "| `harmless_0` | 0 | 70.0 % | 30.0 % |" in text and "| `harmless_50` | 0 | 70.0 % | 60.0 % |" in text
    assert "| `poisoned` | 0 | 75.0 % | 10.0 % | 3.0 % | 2.00 |" in text
    assert "[study_tension-harmless_50-seed0](results/rows/study_tension-harmless_50-seed0.json)" in text


@pytest.mark.parametrize(("words", "says"), [(["study"], "--list"), (["study", "helpful"], "helpful_only")])
def test_bad_input_is_one_clear_line(words, says, docs):
    found = CliRunner().invoke(app, [*words, "--docs", str(docs)])
    assert isinstance(found.exception, ConfigError) and says in str(found.exception)


def test_models_only_presets_are_studies(docs):
    assert {preset for study in STUDIES for preset in study.presets} >= MODELS_ONLY


def test_a_row_of_other_code_is_stale_and_the_list_says_so(docs):
    row = replace(a_row(REWARD_ONLY, seed=1, harm=0.9), code_digest="0" * 64)
    write_row(row, docs / "results" / "rows")
    found = CliRunner().invoke(app, ["study", "--list", "--docs", str(docs)])
    assert re.search(r"\(a\) helpful_only +2 of  3 runs.*; 1 stale: `steelyard results probe`", found.output)
    assert re.search(r"Verdict \(a\): supported here \(.*; seeds 0, 1, 2; 1 stale row\)", found.output), (
        "judged all the same"
    )
