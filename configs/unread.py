"""Settings that a run of one kind never reads: given all the same, they are refused rather than ignored."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce
from typing import Any

from configs.schema.rounds import RoundHuntSettings
from configs.schema.run import RunSettings

SANDBOX_ONLY = (
    "sandbox.world",
    "preferences",
    "splits.by",
    "reward_model.harmlessness_share",
    "evaluation.samples_per_minor_cell",
    "evaluation.samples_unknown",
    "certificate.labels",
    "certificate.labelled",
    "certificate.rate_limit",
)
JUDGED_ON_DATA = ("certificate.labelled", "certificate.rate_limit")
"""Of `SANDBOX_ONLY`, what a run on data reads too where `certificate.judge` labels its answers."""
DATA_ONLY = ("certificate.judge", "certificate.model", "certificate.least")
TRAINED_ON_DATA_ONLY = ("model.path", "model.revision", "model.trust_remote_code", "model.template", "model.vocab_size")
FROM_SCRATCH_ONLY = (
    "model.vocab_size",
    "model.hidden_size",
    "model.layers",
    "model.heads",
    "model.intermediate_size",
)
PRETRAINED_ONLY = ("model.revision", "model.trust_remote_code")
HUNT = tuple(f"rounds.hunt.{name}" for name in RoundHuntSettings.model_fields)
LATER_ROUNDS_ONLY = ("rounds.start", "rounds.pairs_from", "rounds.earlier_share", "rounds.red_team", *HUNT)
"""Of `rounds` all but the count and the overrides, which are refused by their round."""

_INSTEAD = {
    "preferences": "the pairs are in the files",
    "preferences.crowd": "a judge or people label the pairs of later rounds",
    "splits.by": "take data.unit",
    "reward_model.harmlessness_share": "name a harmlessness source among data.helpfulness",
    "certificate.labels": "certificate.judge says who labels the answers",
    "certificate.labelled": "nothing is certified without certificate.judge",
    "certificate.rate_limit": "nothing is certified without certificate.judge",
}


def unread_settings(settings: RunSettings) -> Iterator[tuple[str, str]]:
    """Every key that differs from its default and that this run would not read, with why."""
    defaults = RunSettings(name=settings.name)
    for keys, why in _never_read(settings):
        for key in keys:
            if _value(settings, key) != _value(defaults, key):
                yield key, why.format(_INSTEAD.get(key, "leave it out"))


def _never_read(settings: RunSettings) -> list[tuple[tuple[str, ...], str]]:
    return [*_by_source(settings), *_by_rounds(settings)]


def _by_rounds(settings: RunSettings) -> list[tuple[tuple[str, ...], str]]:
    rounds = settings.rounds
    if rounds.count == 1:
        return [(LATER_ROUNDS_ONLY, "is of later rounds, and rounds.count is 1; raise it, or {}")]
    unread: list[tuple[tuple[str, ...], str]] = []
    if rounds.pairs_from == "current":
        unread.append((("rounds.earlier_share",), "is read with rounds.pairs_from: current_and_earlier only; {}"))
    if not rounds.red_team:
        return [*unread, (HUNT, "is the red team's; set rounds.red_team: true, or {}")]
    searches = rounds.hunt.searches
    if "best_of_n" not in searches:
        unread.append((("rounds.hunt.tries",), "is of the search best_of_n; add it to rounds.hunt.searches, or {}"))
    if "trained" not in searches:
        keys = ("rounds.hunt.steps", "rounds.hunt.batch")
        unread.append((keys, "is of the search trained; add it to rounds.hunt.searches, or {}"))
    return unread


def _by_source(settings: RunSettings) -> list[tuple[tuple[str, ...], str]]:
    if settings.data is None:
        own_model = "is read on `data` only: the sandbox's model is made for its words; leave it out"
        return [
            (TRAINED_ON_DATA_ONLY, own_model),
            (DATA_ONLY, "is read on `data` only: on the sandbox take certificate.labels; leave it out"),
        ]
    keys: tuple[str, ...] = SANDBOX_ONLY
    if settings.certificate.judge is not None:
        keys = tuple(key for key in keys if key not in JUDGED_ON_DATA)
    if settings.rounds.count > 1:  # later rounds have fresh pairs, which somebody labels
        keys = (*(key for key in keys if key != "preferences"), "preferences.crowd")
    sandbox = (keys, "is the sandbox's, and this run is on data: {}")
    if settings.model.path is None:
        return [sandbox, (PRETRAINED_ONLY, "belongs to model.path; leave it out")]
    return [sandbox, (FROM_SCRATCH_ONLY, "is the given model's own; leave it out")]


def _value(settings: RunSettings, key: str) -> Any:
    return reduce(getattr, key.split("."), settings)
