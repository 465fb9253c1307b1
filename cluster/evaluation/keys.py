"""Which key goes to which model at an address: never one key to two addresses without being told so."""

from __future__ import annotations

from collections.abc import Sequence

from cluster.evaluation.judging import key_from
from cluster.evaluation.targets import Target
from configs.exits import ConfigError
from configs.explain import suggestion

OPTION = "--api-key-env"


def model_keys(options: Sequence[str], targets: Sequence[Target]) -> dict[str, str]:
    """Label of a model at an address to its key, from ``VARIABLE`` or ``LABEL=VARIABLE`` as often as it was given.

    Raises:
        ConfigError: it is not clear whose key one is, or its variable holds none.
    """
    labels = [target.label for target in targets if target.kind == "url"]
    keys: dict[str, str] = {}
    for option in options:
        label, variable = _whose(option, labels)
        if label in keys:
            raise ConfigError(f"{OPTION}: two keys for {label}: give one")
        if (key := key_from(variable, OPTION)) is not None:
            keys[label] = key
    return keys


def _whose(option: str, labels: Sequence[str]) -> tuple[str, str]:
    """The label, and the variable."""
    if not labels:
        raise ConfigError(f"{OPTION} {option}: no model here is at an address: leave it out")
    label, equals, variable = option.partition("=")
    if not equals:
        if len(labels) > 1:
            examples = " ".join(f"{OPTION} {name}=VARIABLE" for name in labels)
            raise ConfigError(f"{OPTION} {option}: whose key? {len(labels)} models are at addresses: write {examples}")
        return labels[0], option
    if label not in labels:
        raise ConfigError(
            f"{OPTION} {option}: no model at an address is called '{label}'; {suggestion(label, list(labels))}"
        )
    if not variable:
        raise ConfigError(f"{OPTION} {option}: no environment variable after the label")
    return label, variable
