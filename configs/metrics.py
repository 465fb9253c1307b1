"""Every series that a run gives to Prometheus: name, kind, unit, labels, meaning, and where its values come from.

The one list: `cluster.observability.telemetry.series` fills it, `docs/metrics.md` is written from it, the dashboards and rules of
`cluster.observability.monitoring` may use nothing else of ours. Every series has the label ``run``. Labels are bounded: roles, ranks,
constraints, phases and the like, never a request, a message or a path.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["gauge", "counter", "histogram"]
Source = Literal["step", "derived", "status", "live", "settings"]

SOURCES: Mapping[Source, str] = {
    "step": "the step's line in `metrics.jsonl` (`cluster/run_folder/metrics_log.py`)",
    "derived": "the step's line and those before it (`cluster/observability/telemetry/series.py`)",
    "status": "`status.json` (`cluster/run_folder/status.py`)",
    "live": "the running driver (`cluster/observability/telemetry/live.py`); not of finished runs",
    "settings": "the run's configuration",
}
STALENESS_BUCKETS = (0.5, 1.5, 2.5, 4.5, 8.5, 16.5)
"""Between whole numbers of versions, above 0 as Ray asks."""


@dataclass(frozen=True)
class Series:
    """One series of the catalogue."""

    name: str
    """Without ``ray_``, which Ray prefixes and our Prometheus configuration takes off again, and without ``_total``."""
    kind: Kind
    unit: str
    meaning: str
    source: Source
    labels: tuple[str, ...] = ()
    """Besides ``run``."""
    keys: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Of ``step``: key of the line → its labels; a ``*`` in the key stands for the rest of it, and in a label for that rest."""
    when: str = ""
    """What a run must have for the series to be set; empty: every run of the loop."""

    @property
    def exposed(self) -> str:
        """The name in a query."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def _line(
    name: str,
    unit: str,
    meaning: str,
    keys: str | Mapping[str, Mapping[str, str]],
    *labels: str,
    kind: Kind = "gauge",
    when: str = "",
) -> Series:
    """A series read from the step's line; a key without ``*`` and labels may be given alone."""
    labels_by_key = {keys: dict.fromkeys(labels, "*")} if isinstance(keys, str) else keys
    return Series(f"steelyard_{name}", kind, unit, meaning, "step", labels, labels_by_key, when)


def _quantiles(stem: str, labels: Mapping[str, str]) -> dict[str, dict[str, str]]:
    return {f"{stem}_{key}": {"q": value} for key, value in labels.items()}


_CONSTRAINED = "constraints"
_CRITICS = "algorithm: ppo_lag"

_LEARNING = (
    _line("step", "steps", "Optimiser steps done in this round.", "step"),
    _line("weight_version", "version", "Of the learner's weights, as published.", "weight_version"),
    _line("reward", "score", "Mean raw reward of the batch.", "reward"),
    _line("kl", "nats per response", "Policy against reference, mean over the batch.", "kl"),
    _line("kl_per_token", "nats per token", "The same per token.", "kl_per_token"),
    _line("entropy", "nats per token", "Mean surprise of the sampled tokens.", "entropy"),
    _line("clip_fraction", "share", "Tokens whose ratio left the clip range.", "clip_fraction"),
    _line(
        "ratio",
        "ratio",
        "New policy over proximal policy in the last epoch, quantiles over the tokens.",
        _quantiles("ratio", {"q01": "0.01", "q50": "0.5", "q99": "0.99"}),
        "q",
    ),
    _line(
        "delta_logprob",
        "nats",
        "|learner - generator| log-probs of the sampled tokens, quantiles; 1 is the maximum.",
        _quantiles("delta_logprob", {"q50": "0.5", "q90": "0.9", "q99": "0.99", "max": "1"}),
        "q",
    ),
    _line(
        "importance_weight",
        "ratio",
        "Truncated importance weights of the tokens: mean and least.",
        {"importance_weight_mean": {"statistic": "mean"}, "importance_weight_min": {"statistic": "min"}},
        "statistic",
    ),
    _line(
        "advantage",
        "score",
        "Combined advantages of the tokens: mean and spread.",
        {"advantage_mean": {"statistic": "mean"}, "advantage_std": {"statistic": "std"}},
        "statistic",
    ),
    _line(
        "explained_variance",
        "share",
        "Of the returns by each critic: 1 is perfect, 0 no better than the mean.",
        "explained_variance/*",
        "signal",
        when=_CRITICS,
    ),
    _line("gradient_norm", "norm", "Mean over minibatches, before clipping.", "gradient_norm/*", "part"),
    _line(
        "loss",
        "loss",
        "Mean over minibatches, per part: actor, critic of a signal, kl, ptx.",
        {
            "actor_loss": {"part": "actor"},
            "critic_loss/*": {"part": "critic of *"},
            "kl_loss": {"part": "kl"},
            "ptx_loss": {"part": "ptx"},
        },
        "part",
    ),
    _line("response_length", "tokens", "Mean length of a response.", "response_length"),
    _line("truncation_rate", "share", "Responses cut at ppo.max_response_tokens.", "truncation_rate"),
    _line(
        "watched_score",
        "score",
        "Mean of a score that is logged and never learned from.",
        "watched/*",
        "signal",
        when="halves.enabled",
    ),
)

_CONSTRAINTS = (
    _line("cost", "score", "Mean raw cost of the constraint's subset.", "cost/*", "constraint", when=_CONSTRAINED),
    _line(
        "measure",
        "the limit's",
        "J: the measure over the window, in the user's units.",
        "measure/*",
        "constraint",
        when=_CONSTRAINED,
    ),
    _line("limit", "the measure's", "The bound on J.", "limit/*", "constraint", when=_CONSTRAINED),
    _line("multiplier", "weight", "The Lagrange multiplier.", "multiplier/*", "constraint", when=_CONSTRAINED),
    _line(
        "violation_rate",
        "share",
        "Samples of the window whose raw cost is above 0.",
        "violation_rate/*",
        "constraint",
        when=_CONSTRAINED,
    ),
    _line(
        "window_samples",
        "samples",
        "Samples in the window that J is taken over.",
        "window/*",
        "constraint",
        when=_CONSTRAINED,
    ),
    Series(
        "steelyard_slack",
        "gauge",
        "the limit's",
        "Limit minus measure: below 0 the constraint is violated.",
        "derived",
        ("constraint",),
        when=_CONSTRAINED,
    ),
    Series(
        "steelyard_violated_steps",
        "gauge",
        "steps",
        "Steps in a row, up to now, with the measure above its limit.",
        "derived",
        ("constraint",),
        when=_CONSTRAINED,
    ),
    Series(
        "steelyard_multiplier_cap",
        "gauge",
        "weight",
        "dual.cap; of a fixed multiplier there is none.",
        "settings",
        ("constraint",),
        when="a moving multiplier",
    ),
    Series("steelyard_kl_budget", "gauge", "nats per response", "ppo.kl_budget.", "settings", when="ppo.kl_budget"),
)

_WORK = (
    _line("step_seconds", "seconds", "The whole optimiser step.", "seconds"),
    _line(
        "phase_seconds", "seconds", "Of the step: rollout (with scoring), learn, publish.", "phase_seconds/*", "phase"
    ),
    _line(
        "learner_phase_seconds",
        "seconds",
        "Of `learn`, the slowest rank: fetch, experience, update, write.",
        "learn_seconds/*",
        "phase",
    ),
    _line("overlap_efficiency", "share", "Of the scorers' work, what cost no time of its own.", "overlap_efficiency"),
    _line(
        "first_sample_seconds", "seconds", "Until the first samples of the step had been drawn.", "first_sample_seconds"
    ),
    _line("generate_seconds", "seconds", "Until the last sample of the step had been drawn.", "generate_seconds"),
    _line("score_busy_seconds", "seconds", "The scorers' own work in the step, added up.", "score_busy_seconds"),
    Series(
        "steelyard_samples_per_second",
        "gauge",
        "samples per second",
        "Of the step: role generator while drawing, scorer while busy, learner in `learn`, loop over the whole step.",
        "derived",
        ("role",),
    ),
    Series(
        "steelyard_tokens_per_second",
        "gauge",
        "tokens per second",
        "Response tokens, as samples_per_second.",
        "derived",
        ("role",),
    ),
    _line("samples", "samples", "Learned from.", "samples", kind="counter"),
    _line("tokens", "tokens", "Response tokens learned from.", "tokens", kind="counter"),
    _line(
        "sample_staleness",
        "versions",
        "Weight versions between drawing a sample and learning from it.",
        "staleness/*",
        kind="histogram",
    ),
    _line(
        "quarantined_samples",
        "samples",
        "Set aside because a score or log-prob is unknown.",
        "quarantined",
        kind="counter",
    ),
    _line(
        "scorer_faults",
        "samples",
        "Scores that did not come, as <signal>/<reason>.",
        "scorer_faults/*",
        "fault",
        kind="counter",
        when="such a fault",
    ),
    _line("duplicate_samples", "samples", "Drawn twice after a death, and dropped.", "duplicates", kind="counter"),
    _line(
        "retried_requests",
        "requests",
        "Handed out again after a generator died or a chunk was lost.",
        "retries",
        kind="counter",
    ),
    _line("generator_deaths", "deaths", "While a batch was drawn.", "generator_deaths", kind="counter"),
    _line("broadcast_seconds", "seconds", "Sending the weights, rank 0's own time.", "broadcast_seconds"),
    _line(
        "broadcast_wait_seconds",
        "seconds",
        "Of publishing, all but the sending: members, groups, loading, second tries.",
        "broadcast_wait_seconds",
    ),
    _line("broadcast_bytes", "bytes", "Of one broadcast.", "broadcast_bytes"),
    _line(
        "gpu_memory_bytes",
        "bytes",
        "Most that a learner rank has held since its start (CUDA's allocator).",
        "gpu_memory/*",
        "rank",
        when="a GPU",
    ),
)

_STATE = (
    Series(
        "steelyard_run_state",
        "gauge",
        "0 or 1",
        "1 at the run's present state: starting, running, finished, failed, stopped.",
        "status",
        ("state",),
    ),
    Series(
        "steelyard_stage_state",
        "gauge",
        "code",
        "0 waiting, 1 running, 2 done, 3 skipped, 4 failed, 5 stopped.",
        "status",
        ("stage",),
    ),
    Series("steelyard_stage_seconds", "gauge", "seconds", "Of a stage that is over.", "status", ("stage",)),
    Series("steelyard_stage_step", "gauge", "steps", "Done in the present stage.", "status"),
    Series(
        "steelyard_stage_steps", "gauge", "steps", "Of the present stage; 0 where it does not count steps.", "status"
    ),
    Series("steelyard_elapsed_seconds", "gauge", "seconds", "Since this attempt began.", "status"),
    Series("steelyard_warnings", "gauge", "warnings", "Different warnings up to now.", "status"),
    Series("steelyard_attempt", "gauge", "attempts", "Counted from 1.", "status"),
    Series(
        "steelyard_generator_weight_version",
        "gauge",
        "version",
        "Of a generator's last completed update.",
        "status",
        ("role", "rank"),
    ),
    Series(
        "steelyard_generator_serving", "gauge", "0 or 1", "Whether it may draw samples.", "status", ("role", "rank")
    ),
)

_LIVE = (
    Series("steelyard_round", "gauge", "rounds", "Whose loop runs, from 1.", "live"),
    Series(
        "steelyard_step_timestamp_seconds",
        "gauge",
        "Unix time",
        "End of the last step; before the first, the loop's start.",
        "live",
    ),
    Series(
        "steelyard_queue_depth",
        "gauge",
        "requests or chunks",
        "requests_waiting for a generator, requests_running at one, chunks_scoring.",
        "live",
        ("queue",),
    ),
    Series(
        "steelyard_actor_restarts",
        "counter",
        "restarts",
        "Of one actor.",
        "live",
        ("role", "rank"),
        when="such a restart",
    ),
    Series(
        "steelyard_checkpoint_timestamp_seconds",
        "gauge",
        "Unix time",
        "Of the newest checkpoint; before the first, the loop's start.",
        "live",
    ),
    Series(
        "steelyard_checkpoint_seconds",
        "gauge",
        "seconds",
        "To write the newest checkpoint.",
        "live",
        when="a checkpoint",
    ),
    Series("steelyard_checkpoint_bytes", "gauge", "bytes", "Of the newest checkpoint.", "live", when="a checkpoint"),
    Series("steelyard_storage_free_bytes", "gauge", "bytes", "Of the file system that holds the run.", "live"),
    Series("steelyard_storage_bytes", "gauge", "bytes", "Its size.", "live"),
    Series("steelyard_not_finite", "gauge", "0 or 1", "1 once a number that is not finite has ended the run.", "live"),
)

CATALOGUE: tuple[Series, ...] = (*_LEARNING, *_CONSTRAINTS, *_WORK, *_STATE, *_LIVE)
GROUPS: Mapping[str, tuple[Series, ...]] = {
    "Learning": _LEARNING,
    "Constraints": _CONSTRAINTS,
    "Work": _WORK,
    "State": _STATE,
    "Live": _LIVE,
}
BY_NAME: Mapping[str, Series] = {series.name: series for series in CATALOGUE}

_HEAD = """# Metrics

Every series that a run gives to Prometheus. Written from `configs/metrics.py` by `steelyard metrics --markdown`; how to scrape,
see and alert on them is in [monitoring.md](monitoring.md).

All have the label `run`. In the cluster they go through Ray's metrics, whose names begin with `ray_`; our `prometheus.yml` takes
that off, so that a query is the same for a live run and for `steelyard export`. Gauges are set again every 5 s, because Ray
forgets a gauge 20 s after it was set. vLLM's own series (`ray_vllm_…`) come next to them, see
[monitoring.md](monitoring.md#vllms-own-metrics).
"""


def markdown() -> str:
    """The text of ``docs/metrics.md``."""
    parts = [_HEAD]
    for title, group in GROUPS.items():
        parts.append(f"\n## {title}\n\n| name | kind | unit | labels | meaning | of |\n|---|---|---|---|---|---|\n")
        for series in group:
            meaning = series.meaning.replace("|", "\\|")  # a bare bar would end the cell
            cells = (f"`{series.exposed}`", series.kind, series.unit, ", ".join(series.labels), meaning, _of(series))
            parts.append(f"| {' | '.join(cells)} |\n")
    parts.append(
        "\nWhere values come from: " + "; ".join(f"*{name}*: {text}" for name, text in SOURCES.items()) + ".\n"
    )
    return "".join(parts)


def _of(series: Series) -> str:
    return f"{series.source}; with {series.when}" if series.when else series.source
