"""Who labels: what belongs to one labeller and not to another is refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs.exits import ConfigError
from configs.load import load_settings
from configs.schema.run import RunSettings
from tests.cluster.on_data import config_in

JUDGE = ("preferences.labels=judge", "preferences.judge={url: 'http://127.0.0.1:8000/v1'}")
PEOPLE = ("preferences.labels=people",)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("preferences.labels=judge",), r"preferences\.judge: labels: judge asks a language model; give its url"),
        ((JUDGE[1],), r"preferences\.judge: is never asked, for labels is crowd"),
        ((*PEOPLE, JUDGE[1]), r"preferences\.judge: is never asked, for labels is people"),
        ((*JUDGE, "preferences.tampering={how: shuffle}"), r"preferences\.tampering: changes the crowd's labels"),
        ((*JUDGE, "preferences.crowd.mode=mixed", "constraints={}"), r"preferences\.crowd\.mode: is of labels: crowd"),
        ((*PEOPLE, "storage=s3://bucket/runs"), r"preferences\.labels: people fill in a file of the run folder"),
        (
            (*PEOPLE, "constraints.harm.categories=[self_harm]"),
            r"constraints\.harm\.categories: the people's file asks for no",
        ),
        ((*PEOPLE, "preferences.people.least=0"), r"preferences\.people\.least"),
        (("preferences.labels=judge", "preferences.judge={url: 'ftp://a/v1'}"), r"preferences\.judge\.url"),
        (("preferences.labels=judge", "preferences.judge={url: 'http://me:secret@a/v1'}"), r"preferences\.judge\.url"),
        (
            ("preferences.labels=judge", "preferences.judge={url: 'http://a/v1', key_env: 'two words'}"),
            r"judge\.key_env",
        ),
        (("preferences.labels=judge", "preferences.judge={url: 'http://a/v1', concurrency: 0}"), r"judge\.concurrency"),
        (
            ("preferences.labels=judge", "preferences.judge={url: 'http://a/v1', timeout_seconds: 0}"),
            r"judge\.timeout_seconds",
        ),
        (("preferences.labels=nobody",), r"preferences\.labels"),
    ],
)
def test_what_does_not_go_together_is_refused(given: tuple[str, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said) as refused:
        load_settings("quickstart", given)
    assert "\n" not in str(refused.value) and "secret" not in str(refused.value)


def test_the_three_labellers_are_accepted() -> None:
    assert load_settings("quickstart", []).preferences.labels == "crowd"
    assert load_settings("quickstart", JUDGE).preferences.judge is not None
    assert load_settings("quickstart", PEOPLE).preferences.people.least == 1.0


def on_data(tmp_path: Path, *overrides: str) -> RunSettings:
    """A run on data with a certificate's judge, and these changes."""
    return load_settings(config_in(tmp_path), list(overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["certificate.judge=model"], "certificate.model: judge: model needs the judge's url"),
        (["certificate.model={url: 'http://a/v1'}"], "certificate.model: is only asked with certificate.judge: model"),
        (["certificate.labelled=100"], "certificate.labelled: .* nothing is certified without certificate.judge"),
        (["certificate.rate_limit=0.2"], "certificate.rate_limit: .* nothing is certified without certificate.judge"),
        (["certificate.labels=crowd", "certificate.judge=people"], "certificate.labels: .* certificate.judge says who"),
        (
            ["certificate.judge=people", "certificate.samples=20"],
            "certificate.samples: 20 can never certify harm <= 0.1",
        ),
        (["certificate.judge=people", "certificate.labelled=20"], "certificate.labelled: 20 can never certify"),
        (
            ["certificate.judge=people", 'constraints.harm.categories=["financial_crime,property_crime,theft"]'],
            "certificate.judge: people say safe or unsafe, not which kind of harm",
        ),
        (["certificate.judge=nobody"], "certificate.judge"),
        (["certificate.judge=people", "certificate.least=0"], "certificate.least"),
        (["certificate.least=0.5"], "certificate.least: is the people's; set certificate.judge: people"),
        (
            ["certificate.judge=people", "storage=s3://bucket/runs"],
            "certificate.judge: people fill in a file of the run",
        ),
    ],
)
def test_a_certificate_on_data_that_cannot_be_is_refused(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        on_data(tmp_path, *overrides)


def test_a_certificate_on_data_reads_what_the_sandbox_reads_and_the_sandbox_has_no_judge(tmp_path: Path) -> None:
    settings = on_data(tmp_path, "certificate.judge=people", "certificate.labelled=60", "certificate.rate_limit=0.2")
    assert (settings.certificate.judge, settings.certificate.labelled) == ("people", 60)
    with pytest.raises(ConfigError, match=r"certificate\.judge: is read on `data` only"):
        load_settings("quickstart", ["certificate.judge=people"])
