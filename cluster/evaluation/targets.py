"""Which models are evaluated: a run's policy, a Hugging Face folder, a name on the hub, or an OpenAI-compatible address."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from configs.exits import ConfigError, DataError
from configs.layout import RunLayout
from serving.runs import find_run

HUB = "hub:"
SFT, POLICY = "sft", "policy"
_LABEL = re.compile(r"[A-Za-z0-9][\w.-]{0,39}")
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+(@[\w./-]+)?")


@dataclass(frozen=True)
class Target:
    """One model, found as far as that needs no network."""

    label: str
    kind: Literal["run", "folder", "hub", "url"]
    source: str
    """A run's or model's folder, ``owner/name[@revision]``, or an address."""
    folder: Path | None = None
    """Of a run's policy, which needs no preparation."""
    model_id: str | None = None
    """At an address."""
    response_tokens: int | None = None
    """What the run let its policy draw at most."""

    def document(self) -> dict[str, Any]:
        """What a report says of it: no path of this machine, and of an address nothing after a question mark."""
        source = self.source.partition("?")[0] if self.kind == "url" else self.source
        if self.kind in ("run", "folder"):
            source = Path(self.source).name
        return {"label": self.label, "kind": self.kind, "source": source}


def find_targets(arguments: Sequence[str]) -> list[Target]:
    """Every model named on the command line, with labels that are all different.

    Raises:
        ConfigError: one is not there, or two have one label. DataError: a run has no such policy yet.
    """
    if not arguments:
        raise ConfigError("no model to evaluate: name a run, a model's folder, hub:owner/name, or http://…/v1")
    targets = [_target(argument) for argument in arguments]
    labels = [target.label for target in targets]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"two models are called {label}: give labels, such as one={arguments[0].split('=')[-1]}")
    return targets


def _target(argument: str) -> Target:
    label, equals, source = argument.partition("=")
    if not equals or "/" in label or ":" in label:
        return _found(None, argument)
    if not _LABEL.fullmatch(label):
        raise ConfigError(f"'{label}' cannot be a model's label: use letters, digits, '.', '-' and '_', at most 40")
    if not source:
        raise ConfigError(f"{argument}: no model after the label")
    return _found(label, source)


def _found(label: str | None, name: str) -> Target:
    if name.startswith(("http://", "https://")):
        return _at_address(label, name)
    if name.startswith(HUB):
        repository = name.removeprefix(HUB)
        if not repository:
            raise ConfigError("hub: names no model: write hub:owner/name[@revision]")
        return Target(label or _as_label(repository.partition("@")[0].split("/")[-1]), "hub", repository)
    folder = Path(name).expanduser()
    if (folder / "config.json").is_file():
        return Target(label or _as_label(folder.resolve().name), "folder", str(folder.resolve()))
    run, colon, model = name.rpartition(":")
    if not colon or "/" in model:
        run, model = name, POLICY
    try:
        layout = RunLayout(find_run(run))
    except ConfigError as error:
        if _HUB_NAME.fullmatch(name) and not folder.exists():
            return Target(label or _as_label(name.partition("@")[0].split("/")[-1]), "hub", name)
        raise ConfigError(f"{name}: no model's folder (config.json is missing), and {error}") from error
    return _of_run(label, layout, model)


def _at_address(label: str | None, name: str) -> Target:
    from actors.judging.judges.chat_endpoint import (
        check_address,  # its client takes a moment that other models need not wait for
    )

    parts = check_address(name)
    address = parts._replace(fragment="").geturl()
    return Target(label or _as_label(parts.fragment or parts.netloc), "url", address, model_id=parts.fragment or None)


def _of_run(label: str | None, layout: RunLayout, model: str) -> Target:
    if model not in (SFT, POLICY):
        raise ConfigError(f"{layout.root.name}:{model}: a run has no such model: give :{SFT} or :{POLICY}")
    folder = sft_of(layout) if model == SFT else policy_of(layout)
    if not (folder / "config.json").is_file():
        raise DataError(f"{layout.root.name} has no {model} model yet ({folder} is not there): finish the run")
    ppo = settings_of(layout).get("ppo") or {}
    tokens = ppo.get("max_response_tokens") if isinstance(ppo, dict) else None
    name = layout.root.name if model == POLICY else f"{layout.root.name}-{model}"
    return Target(
        label or _as_label(name),
        "run",
        str(layout.root),
        folder,
        response_tokens=tokens if isinstance(tokens, int) else None,
    )


def sft_of(layout: RunLayout) -> Path:
    """The supervised policy; an arm may share its run's."""
    return next((place.sft for place in places_of(layout) if place.sft.is_dir()), layout.sft)


def policy_of(layout: RunLayout) -> Path:
    """The promoted policy of the last round that has one."""
    rounds = sorted(
        (int(folder.name) for folder in (layout.root / "rounds").glob("*") if folder.name.isdecimal()), reverse=True
    )
    return next((layout.policy(number) for number in rounds if layout.policy(number).is_dir()), layout.policy(1))


def places_of(layout: RunLayout) -> list[RunLayout]:
    """The run, and of an arm also the comparison that it is of, whose stages it may share."""
    return [layout, *([RunLayout(layout.root.parent.parent)] if layout.root.parent.name == "arms" else [])]


def settings_of(layout: RunLayout) -> dict[str, Any]:
    """The run's resolved configuration as plain values; empty where there is none."""
    if not layout.config.is_file():
        return {}
    try:
        settings = yaml.safe_load(layout.config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{layout.config} cannot be read: {' '.join(str(error).split())[:120]}") from error
    return settings if isinstance(settings, dict) else {}


def _as_label(text: str) -> str:
    return (re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII).strip("-.") or "model")[:40]
