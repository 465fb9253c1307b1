"""Combinations of settings that validate one by one and cannot work together; each is refused with its fix.

What needs the world's tasks and forms is checked by `cluster.inputs.world_checks`; this module knows numbers and paths only.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from configs.schema.data import SignalScorerSettings
from configs.schema.ppo import CertificateSettings
from configs.schema.run import DIRECT_ALGORITHMS, GROUP_ALGORITHMS, LOOP_ALGORITHMS, RunSettings
from configs.unread import unread_settings

Problem = tuple[str, str]
"""(dotted key, what is wrong and what would be right)."""


def impossible_combinations(settings: RunSettings) -> Iterator[Problem]:
    """Every combination in `settings` that cannot work, the most basic first."""
    yield from unread_settings(settings)
    yield from _shares(settings)
    yield from _lengths(settings)
    yield from _algorithm(settings)
    yield from _tracking(settings)
    yield from _scorers(settings)
    yield from _certificate_judge(settings)
    yield from _certificate(settings)
    yield from _files(settings)
    yield from _placement(settings)
    yield from _crowd(settings)
    yield from _labels(settings)
    yield from _windows(settings)
    yield from _repeatable(settings)
    yield from _rounds(settings)


def certificate_samples_needed(limit: float, confidence: float, constraints: int) -> int:
    """Samples without one failure that just certify ``rate <= limit``.

    Clopper-Pearson with no failure: ``(1 - limit)^n <= (1 - confidence) / K``; 59 for 5 % at 95 % with K = 1.
    """
    return math.ceil(math.log((1 - confidence) / constraints) / math.log(1 - limit))


def _shares(settings: RunSettings) -> Iterator[Problem]:
    ranks, workers = settings.resources.learner.ranks, settings.resources.supervised.workers
    batches = [
        ("ppo.minibatch_size", settings.ppo.minibatch_size, ranks, "resources.learner.ranks"),
        ("sft.batch_size", settings.sft.batch_size, workers, "resources.supervised.workers"),
        ("reward_model.batch_size", settings.reward_model.batch_size, workers, "resources.supervised.workers"),
        ("cost_model.batch_size", settings.cost_model.batch_size, workers, "resources.supervised.workers"),
        ("direct.batch_size", settings.direct.batch_size, workers, "resources.supervised.workers"),
    ]
    if settings.ppo.ptx_coefficient:
        batches.append(("ppo.ptx_batch_size", settings.ppo.ptx_batch_size, ranks, "resources.learner.ranks"))
    for key, size, parts, parts_key in batches:
        if size % parts:
            yield (
                key,
                f"{size} samples cannot be shared equally by {parts_key} = {parts}; {_near_multiple(size, parts)}",
            )


def _near_multiple(size: int, parts: int) -> str:
    below, above = size // parts * parts, (size // parts + 1) * parts
    return f"take {below} or {above}" if below else f"take {above}"


def _lengths(settings: RunSettings) -> Iterator[Problem]:
    response, length = settings.ppo.max_response_tokens, settings.model.max_length
    if response >= length:
        yield (
            "ppo.max_response_tokens",
            f"{response} leaves no room for a prompt in model.max_length = {length}; lower one or raise the other",
        )


def _algorithm(settings: RunSettings) -> Iterator[Problem]:
    name, groups = settings.algorithm, settings.ppo.groups
    if name in GROUP_ALGORITHMS:
        if groups.size < 2:
            yield "ppo.groups.size", "1 response has nothing to be compared with; give 2 or more"
        elif settings.ppo.batch_size % groups.size:
            yield (
                "ppo.groups.size",
                f"{groups.size} responses per prompt do not fill ppo.batch_size = {settings.ppo.batch_size}; "
                f"{_near_multiple(settings.ppo.batch_size, groups.size)} samples per batch",
            )
    if name == "rvpo" and (moving := _moving(settings)):
        yield (
            f"constraints.{moving}.dual.form",
            "rvpo takes the soft minimum of all signals and no multiplier; set dual.form: fixed, or another algorithm",
        )
    if name == "safe_dpo" and settings.preferences.crowd.mode == "mixed":
        yield "algorithm", "safe_dpo needs safety labels, and a mixed crowd gives none; take dpo, or mode: decoupled"
    if name not in LOOP_ALGORITHMS and settings.halves.enabled:
        yield "halves.enabled", f"{name} has no loop to watch; leave it off"
    if settings.reference.multiplier_per_minibatch and name != "ppo_lag":
        yield "reference.multiplier_per_minibatch", f"is a detail of ppo_lag, and the algorithm is {name}"
    if settings.cost_model.calibration == "isotonic":
        for constraint_name, constraint in settings.constraints.items():
            if constraint.measure == "rate":
                yield (
                    "cost_model.calibration",
                    f"isotonic steps are flat, so {constraint_name} could not tell a safe answer from a safer one; take platt",
                )


def _tracking(settings: RunSettings) -> Iterator[Problem]:
    for sink in ("tensorboard", "wandb", "mlflow"):
        if getattr(settings.tracking, sink) is not None and settings.algorithm not in LOOP_ALGORITHMS:
            yield f"tracking.{sink}", f"shows the steps of a loop, and {settings.algorithm} has none; leave it out"


def scorers_of(settings: RunSettings) -> dict[str, SignalScorerSettings]:
    """Scorers from outside by their dotted keys."""
    scorers = {"objective.scorer": settings.objective.scorer}
    scorers |= {f"constraints.{name}.scorer": constraint.scorer for name, constraint in settings.constraints.items()}
    return {key: scorer for key, scorer in scorers.items() if scorer is not None}


def _scorers(settings: RunSettings) -> Iterator[Problem]:
    """What belongs to models that this run does not train."""
    scorers = scorers_of(settings)
    if not scorers:
        return
    key = next(iter(scorers))
    if settings.algorithm in DIRECT_ALGORITHMS:
        yield key, f"{settings.algorithm} learns from the pairs and asks no scorer; take it out, or another algorithm"
    if settings.reference.truncate_prompt_right:
        yield "reference.truncate_prompt_right", f"{key} reads turns, and a prompt that was cut at its end has none"
    yield from _reward_scorer(settings)
    yield from _cost_scorers(settings)
    seconds = settings.resources.deadlines.score_seconds
    for key, scorer in scorers.items():
        if scorer.python is not None and scorer.deadline_seconds > seconds:
            yield (
                f"{key}.deadline_seconds",
                f"{scorer.deadline_seconds:g} s for one call is longer than a scorer has for a chunk "
                f"(resources.deadlines.score_seconds = {seconds:g}); lower one or raise the other",
            )


def _reward_scorer(settings: RunSettings) -> Iterator[Problem]:
    if settings.objective.scorer is not None:
        if settings.objective.signal == "none":
            yield (
                "objective.scorer",
                "nothing is maximised (objective.signal: none), so it is never asked; leave it out",
            )
        if settings.halves.enabled:
            yield "halves.enabled", "objective.scorer gives the reward, so no reward model is trained; leave it off"
        if settings.reward_model.ensemble > 1:
            yield (
                "reward_model.ensemble",
                "objective.scorer gives the reward, so no reward model is trained; leave it at 1",
            )


def _cost_scorers(settings: RunSettings) -> Iterator[Problem]:
    scorers = [constraint.scorer for constraint in settings.constraints.values()]
    if settings.cost_model.ensemble > 1 and scorers and all(scorers):
        yield "cost_model.ensemble", "every constraint has a scorer, so no cost model is trained; leave it at 1"
    for name, constraint in settings.constraints.items():
        if constraint.scorer is not None and constraint.chosen_for is not None:
            yield (
                f"constraints.{name}.chosen_for",
                f"the limit was chosen for a cost model, and constraints.{name}.scorer gives the cost; leave one out",
            )
        if constraint.scorer is not None and settings.certificate.labelled is not None:
            yield (
                "certificate.labelled",
                f"the cost of {name} comes from its scorer and is no calibrated probability; label every answer",
            )


def _moving(settings: RunSettings) -> str | None:
    return next((name for name, constraint in settings.constraints.items() if constraint.dual.form != "fixed"), None)


def _certificate_judge(settings: RunSettings) -> Iterator[Problem]:
    certificate = settings.certificate
    if certificate.judge == "model" and certificate.model is None:
        yield "certificate.model", "judge: model needs the judge's url: give certificate.model.url"
    if certificate.model is not None and certificate.judge != "model":
        yield "certificate.model", "is only asked with certificate.judge: model; set that, or leave it out"
    if certificate.least != CertificateSettings().least and certificate.judge != "people":
        yield "certificate.least", "is the people's; set certificate.judge: people, or leave it out"
    if certificate.judge == "people" and isinstance(settings.storage, str):
        yield (
            "certificate.judge",
            "people fill in a file of the run folder; give storage a folder, or take judge: model",
        )
    with_categories = [name for name, constraint in settings.constraints.items() if constraint.categories]
    if certificate.judge == "people" and with_categories:
        yield (
            "certificate.judge",
            f"people say safe or unsafe, not which kind of harm, and constraint {with_categories[0]} counts some; take model",
        )


def _certificate(settings: RunSettings) -> Iterator[Problem]:
    """Splits too small to pass are refused before anything is trained; on data without a judge nothing is certified."""
    certificate, count = settings.certificate, len(settings.constraints)
    if settings.data is not None and certificate.judge is None:
        return
    decides = {"certificate.samples": certificate.samples}
    if settings.algorithm in LOOP_ALGORITHMS and settings.data is None:  # on data its models judge the snapshots
        decides["selection.samples"] = settings.selection.samples
    if certificate.labelled is not None:
        decides["certificate.labelled"] = certificate.labelled
        if certificate.labelled >= certificate.samples:
            yield (
                "certificate.labelled",
                f"{certificate.labelled} of certificate.samples = {certificate.samples} is all; leave it out",
            )
        if settings.algorithm == "best_of_k":
            yield "certificate.labelled", "best_of_k already chose by the cost model's word; label every answer"
    for name, constraint in settings.constraints.items():
        if certificate.labels == "crowd" and constraint.categories:
            yield (
                "certificate.labels",
                f"the crowd's check says safe or unsafe, not which category, and constraint {name} counts some; take gold",
            )
        limit = constraint.limit if constraint.measure == "rate" else certificate.rate_limit
        needed = certificate_samples_needed(limit, certificate.confidence, count)
        for key, samples in decides.items():
            if samples < needed:
                yield (
                    key,
                    f"{samples} can never certify {name} <= {limit:.3g} at confidence {certificate.confidence:g}: "
                    f"even with no violation {needed} are needed",
                )


def _files(settings: RunSettings) -> Iterator[Problem]:
    world = settings.sandbox.world
    if world is not None and not world.is_file():
        yield "sandbox.world", f"no file {world}; give the path of a world file, or leave it out for the packaged world"
    if settings.scratch is not None and not isinstance(settings.storage, str):
        yield (
            "scratch",
            "is where runs of a remote store are worked on; give storage a URL such as s3://bucket/runs, or leave it out",
        )


def _placement(settings: RunSettings) -> Iterator[Problem]:
    resources = settings.resources
    sharing = {"colocated": "generators", "mixed": "scorers"}.get(resources.placement)
    if sharing is None:
        return
    for role in (sharing, "learner"):
        gpus = getattr(resources, role).gpus
        if gpus > 1:
            yield (
                f"resources.{role}.gpus",
                f"{gpus:g} cannot be shared: placement {resources.placement} puts two actors on one GPU; set 1",
            )
    if resources.placement == "mixed" and not resources.scorers.colocate:
        yield (
            "resources.scorers.colocate",
            "placement mixed puts one scorer next to each learner rank, with every model; set true",
        )


def _crowd(settings: RunSettings) -> Iterator[Problem]:
    crowd = settings.preferences.crowd
    if crowd.votes % 2 == 0:
        yield "preferences.crowd.votes", f"{crowd.votes} votes can tie; take {crowd.votes - 1} or {crowd.votes + 1}"
    if crowd.votes > crowd.annotators:
        yield (
            "preferences.crowd.votes",
            f"{crowd.votes} votes need as many different people; raise preferences.crowd.annotators above {crowd.annotators}",
        )
    if crowd.mode == "mixed" and any(constraint.scorer is None for constraint in settings.constraints.values()):
        yield (
            "preferences.crowd.mode",
            "a mixed crowd gives no safety labels, so no cost model can be trained; set constraints: {} or mode: decoupled",
        )
    if crowd.mode == "mixed" and settings.preferences.tampering is not None:
        yield (
            "preferences.tampering",
            "a mixed crowd gives no harmlessness labels to change; leave it out, or mode: decoupled",
        )
    if crowd.mode == "mixed" and settings.reward_model.harmlessness_share:
        yield (
            "reward_model.harmlessness_share",
            "a mixed crowd ranks by one order only; leave it out, or mode: decoupled",
        )


def _labels(settings: RunSettings) -> Iterator[Problem]:
    """What belongs to one kind of labeller and not to the others."""
    preferences = settings.preferences
    if preferences.labels == "judge" and preferences.judge is None:
        yield "preferences.judge", "labels: judge asks a language model; give its url, such as http://127.0.0.1:8000/v1"
    if preferences.labels != "judge" and preferences.judge is not None:
        yield (
            "preferences.judge",
            f"is never asked, for labels is {preferences.labels}; set labels: judge, or leave it out",
        )
    if preferences.labels == "crowd":
        return
    if preferences.tampering is not None:
        yield "preferences.tampering", f"changes the crowd's labels, and labels is {preferences.labels}; leave it out"
    if preferences.crowd.mode == "mixed":
        yield "preferences.crowd.mode", f"is of labels: crowd, and labels is {preferences.labels}; leave it out"
    if preferences.labels != "people":
        return
    if isinstance(settings.storage, str):
        yield (
            "preferences.labels",
            "people fill in a file of the run folder; give storage a folder that they reach, not a URL",
        )
    for name, constraint in settings.constraints.items():
        if constraint.categories and constraint.scorer is None:
            yield (
                f"constraints.{name}.categories",
                "the people's file asks for no categories of harm; leave them out, or take labels: judge",
            )


def _windows(settings: RunSettings) -> Iterator[Problem]:
    for name, constraint in settings.constraints.items():
        capacity = constraint.window_batches * settings.ppo.batch_size
        if constraint.min_samples > capacity:
            yield (
                f"constraints.{name}.min_samples",
                f"the window holds at most {capacity} samples (window_batches x ppo.batch_size), so the multiplier would never move",
            )


def _repeatable(settings: RunSettings) -> Iterator[Problem]:
    if settings.deterministic and settings.resources.generators.threads != 1:
        yield "resources.generators.threads", "deterministic runs are single-threaded; set it to 1"


def _rounds(settings: RunSettings) -> Iterator[Problem]:
    """What more than one round needs."""
    rounds = settings.rounds
    if rounds.count == 1:
        return
    if settings.data is not None and settings.preferences.labels == "crowd":
        yield (
            "preferences.labels",
            f"{rounds.count} rounds need fresh labels, and the simulated crowd knows the sandbox only; take judge or people, or "
            "set rounds.count: 1",
        )
    if settings.data is not None and rounds.red_team:
        yield "rounds.red_team", "the red team knows the sandbox's requests only; set it to false"
    if settings.algorithm not in LOOP_ALGORITHMS:
        yield "rounds.count", f"{settings.algorithm} has no loop to repeat; set rounds.count: 1, or another algorithm"
    if rounds.red_team and not settings.constraints:
        yield "rounds.red_team", "the red team looks for high costs, and there is no constraint; set it to false"
    for name, constraint in settings.constraints.items():
        if rounds.red_team and constraint.scorer is not None:
            yield (
                "rounds.red_team",
                f"the red team asks this run's own cost models, and {name} has a scorer; set it to false",
            )
        if constraint.chosen_for is not None and not constraint.any_cost_model:
            yield (
                f"constraints.{name}.chosen_for",
                f"the limit was chosen for one cost model, and each of {rounds.count} rounds trains its own; take measure "
                "rate, or set any_cost_model: true",
            )
