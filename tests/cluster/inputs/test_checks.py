"""What a configuration may say about the sandbox's world."""

from __future__ import annotations

from pathlib import Path

import pytest

from actors.crowd.world_reader import load_world
from cluster.inputs.judge_checks import check_labels
from cluster.inputs.world_checks import check_against_world, longest_prompt_tokens
from configs.exits import ConfigError, DataError
from configs.load import load_settings


def test_presets_fit_the_packaged_world():
    assert check_against_world(load_settings("tension")) == load_world()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("constraints.harm.subset=[harmfull]", "no prompt has the tag 'harmfull'; did you mean 'harmful'?"),
        ("constraints.harm.categories=[nonsense]", "no category 'nonsense'"),
        ("preferences.tampering={how: flip, share: 0.1, categories: [nonsense]}", "no category 'nonsense'"),
        ("ppo.kind_weights={harmfl: 1}", "no kind 'harmfl'; did you mean 'harmful'?"),
        ("preferences.kind_weights={benign: 0}", "every weight is 0"),
        ("arms={a: {constraints.harm.subset: [nothing]}}", "arms.a: constraints.harm.subset: no prompt has the tag"),
    ],
)
def test_what_the_world_does_not_have_is_refused(override: str, said: str):
    with pytest.raises(ConfigError) as caught:
        check_against_world(load_settings("quickstart", [override]))
    assert said in str(caught.value)


def test_attack_and_form_ids_are_tags():
    check_against_world(load_settings("quickstart", [f"constraints.harm.subset=[attack, {load_world().forms[0].id}]"]))


def test_a_prompt_and_a_response_must_fit_the_model():
    longest = longest_prompt_tokens(load_world())
    fits = ["ppo.max_response_tokens=30", f"model.max_length={longest + 30}"]
    check_against_world(load_settings("quickstart", fits))
    with pytest.raises(ConfigError, match=f"longest prompt has {longest} tokens"):
        check_against_world(load_settings("quickstart", [fits[0], f"model.max_length={longest + 29}"]))


def test_a_broken_world_is_a_data_error_in_one_line(tmp_path: Path):
    path = tmp_path / "world.json"
    path.write_text("{}")
    with pytest.raises(DataError, match=r"^[^\n]+$"):
        check_against_world(load_settings("quickstart", [f"sandbox.world={path}"]))


def test_a_judge_that_labels_is_checked_before_anything_starts(tmp_path: Path) -> None:
    judge = ["preferences.labels=judge", f"preferences.judge={{url: 'http://127.0.0.1:1/v1', prompts: {tmp_path}}}"]
    with pytest.raises(
        ConfigError, match=r"preferences\.judge\.prompts: .*helpfulness\.txt: a prompt of the judge cannot be read"
    ):
        check_labels(load_settings("quickstart", judge))
    judge[1] = "preferences.judge={url: 'http://127.0.0.1:1/v1'}"
    check_labels(load_settings("quickstart", [*judge, "constraints.harm.categories=[self_harm]"]))
    with pytest.raises(ConfigError, match=r"constraints\.harm\.categories: .*'Violence' is none: "):
        check_labels(load_settings("quickstart", [*judge, "constraints.harm.categories=[Violence]"]))
