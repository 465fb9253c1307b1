"""What a run starts from: the sandbox's world, or files of preference data. Both are checked before anything is started."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from actors.crowd.world import World
from cluster.inputs.head_checks import check_head_sizes
from cluster.inputs.judge_checks import check_labels
from cluster.inputs.scorer_checks import absolute_scorers, check_model_name, check_scorers
from cluster.inputs.world_checks import check_against_world
from cluster.observability.telemetry.sinks import require_packages
from cluster.run_folder.digests import digest
from configs.exits import ConfigError
from configs.explain import suggestion
from configs.load import arm_settings
from configs.schema.data import DataSettings, SourceSettings
from configs.schema.ppo import PpoSettings
from configs.schema.run import LOOP_ALGORITHMS, RunSettings
from configs.schema.supervised import PreferenceSettings
from learner.data.sources import FoundSource, find_source

HELPFULNESS, HARMLESSNESS = "helpfulness", "harmlessness"
"""Tags of the prompts of these pairs, where no source of prompts is given."""


@dataclass(frozen=True)
class FileInputs:
    """The sources of a run on data, all of which exist."""

    settings: DataSettings
    demonstrations: tuple[FoundSource, ...] = ()
    helpfulness: tuple[FoundSource, ...] = ()
    harmlessness: tuple[FoundSource, ...] = ()
    prompts: tuple[FoundSource, ...] = ()
    """Given, or the pairs' own sources with their tags."""
    evaluation: Mapping[str, FoundSource] = field(default_factory=dict)

    def digest(self) -> str:
        """sha256 of every source and of how they are taken."""
        source_digests = {
            name: [source.digest() for source in getattr(self, name)]
            for name in ("demonstrations", HELPFULNESS, HARMLESSNESS, "prompts")
        }
        sets = {name: source.digest() for name, source in self.evaluation.items()}
        how_taken = self.settings.model_dump(mode="json", include={"show", "unit"})
        return digest({"sources": source_digests, "evaluation": sets, "settings": how_taken})

    @property
    def all_sources(self) -> Iterator[FoundSource]:
        """Every source, as often as it is named."""
        for name in ("demonstrations", HELPFULNESS, HARMLESSNESS, "prompts"):
            yield from getattr(self, name)
        yield from self.evaluation.values()


RunInputs = World | FileInputs


def check_inputs(settings: RunSettings) -> RunInputs:
    """Refuse settings whose world or files are not what they say; returns the world or the files.

    Raises:
        DataError: the world, or a source, cannot be used.
        ConfigError: one line with key, reason and fix.
    """
    require_packages(settings)
    check_scorers(settings)
    check_labels(settings)
    check_head_sizes(settings)
    if settings.data is None:
        return check_against_world(settings)
    inputs = _find(settings, settings.data)
    for arm in settings.arms:
        _find(varied := arm_settings(settings, arm, settings.seed), varied.data or settings.data)
    return inputs


def _find(settings: RunSettings, data: DataSettings) -> FileInputs:
    for key, sentence in _problems(settings, data):
        raise ConfigError(f"{key}: {sentence}")

    def all_of(name: str) -> tuple[FoundSource, ...]:
        declared: tuple[SourceSettings, ...] = getattr(data, name)
        return tuple(find_source(source, data.root, f"data.{name}.{index}") for index, source in enumerate(declared))

    helpful, harmless = all_of(HELPFULNESS), all_of(HARMLESSNESS)
    of_pairs = (
        *(_tagged(source, HELPFULNESS) for source in helpful),
        *(_tagged(source, HARMLESSNESS) for source in harmless),
    )
    inputs = FileInputs(
        data,
        demonstrations=all_of("demonstrations"),
        helpfulness=helpful,
        harmlessness=harmless,
        prompts=all_of("prompts") or of_pairs,
        evaluation={
            name: find_source(source, data.root, f"data.evaluation.{name}") for name, source in data.evaluation.items()
        },
    )
    _refuse_unknown_tags(settings, inputs)
    return inputs


def _tagged(source: FoundSource, tag: str) -> FoundSource:
    settings = source.settings.model_copy(update={"tags": (*source.settings.tags, tag)})
    return FoundSource(settings, source.place, source.replaced)


def _problems(settings: RunSettings, data: DataSettings) -> Iterator[tuple[str, str]]:
    """What cannot work without the sandbox, the most basic first."""
    if settings.algorithm not in LOOP_ALGORITHMS:
        yield "algorithm", f"{settings.algorithm} is not offered on data yet; take {', '.join(sorted(LOOP_ALGORITHMS))}"
    trains_reward = settings.objective.signal != "none" and settings.objective.scorer is None
    if trains_reward and not data.helpfulness:
        yield (
            "data.helpfulness",
            "a reward model needs pairs; give a source, objective.scorer, or objective.signal: none",
        )
    without = [name for name, constraint in settings.constraints.items() if constraint.scorer is None]
    if without and not data.harmlessness:
        key = f"constraints.{without[0]}"
        yield "data.harmlessness", f"the cost model of {without[0]} needs pairs; give a source, or {key}.scorer"
    if not (data.helpfulness or data.harmlessness or data.prompts):
        yield "data.prompts", "no source has prompts for the loop; give one"
    yield from _model_problems(settings, data)


def _model_problems(settings: RunSettings, data: DataSettings) -> Iterator[tuple[str, str]]:
    """A model to start from, and what it learns to answer from."""
    if settings.model.path is None and not (data.demonstrations or data.helpfulness or data.harmlessness):
        yield "model.path", "there is no text to train a tokenizer and a model from; give a model, or demonstrations"
    if settings.model.path is None and not data.demonstrations:
        yield "data.demonstrations", "a model from scratch must learn to answer first; give a source, or model.path"
    if settings.model.path is not None:
        try:
            check_model_name(settings.model.path, settings.model.revision)
        except ConfigError as error:
            yield "model.path", str(error)
    if settings.ppo.ptx_coefficient and not data.demonstrations:
        yield "ppo.ptx_coefficient", "mixes demonstrations in, and data.demonstrations has none; give a source, or 0"


def _refuse_unknown_tags(settings: RunSettings, inputs: FileInputs) -> None:
    """Tags that the settings give are known; with none given, files may bring their own, which shows when they are read."""
    declared_tags = sorted({tag for source in inputs.prompts for tag in source.settings.tags})
    used_tags = {f"constraints.{name}.subset": constraint.subset for name, constraint in settings.constraints.items()}
    if settings.ppo.kind_weights != PpoSettings().kind_weights:  # the default is for the sandbox's kinds
        used_tags["ppo.kind_weights"] = tuple(settings.ppo.kind_weights)
    if settings.preferences.kind_weights != PreferenceSettings().kind_weights:
        used_tags["preferences.kind_weights"] = tuple(settings.preferences.kind_weights)
    for key, tags in used_tags.items() if declared_tags else ():
        for tag in tags:
            if tag not in declared_tags:
                raise ConfigError(f"{key}: no source of prompts has the tag '{tag}'; {suggestion(tag, declared_tags)}")


def absolute_paths(settings: RunSettings, folder: Path) -> RunSettings:
    """The settings with local sources and models below `folder` where they were relative, for a job that runs elsewhere."""
    changed: dict[str, object] = {}
    if settings.data is not None:
        changed["data"] = settings.data.model_copy(update={"root": folder / settings.data.root})
    if settings.model.path is not None and (place := folder / Path(settings.model.path).expanduser()).is_dir():
        changed["model"] = settings.model.model_copy(update={"path": str(place)})
    judge = settings.preferences.judge
    if judge is not None and judge.prompts is not None:
        absolute = judge.model_copy(update={"prompts": folder / judge.prompts.expanduser()})
        changed["preferences"] = settings.preferences.model_copy(update={"judge": absolute})
    return absolute_scorers(settings.model_copy(update=changed), folder)
