"""Who labels: what belongs to one labeller and not to another is refused in one line."""

from __future__ import annotations

import pytest

from configs.exits import ConfigError
from configs.load import load_settings

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
