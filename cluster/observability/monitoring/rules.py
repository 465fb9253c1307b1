"""Recording and alert rules for Prometheus, over the catalogue's series.

A run may be seen twice, through Ray and through an exporter, and Ray adds labels of its own (worker, session): every rule
first takes the maximum over what it does not name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

AT_CAP = 0.999
"""Of `dual.cap`: a multiplier kept as its logarithm comes back as exp(log(5)) = 4.999999999999999."""
LOOP_STAGE = 'steelyard_stage_state{stage=~"(round-[0-9]+/)?ppo"}'


@dataclass(frozen=True)
class Thresholds:
    """When an alert fires."""

    violated_steps: int = 20
    """Steps in a row with a measure above its limit."""
    silent_minutes: float = 15.0
    """Of the loop without a step."""
    versions_behind: int = 2
    """A generator's weights behind the learner's by more than this."""
    checkpoint_minutes: float = 120.0
    """Of work that a crash would lose."""
    disk_free: float = 0.1
    """Share of a file system that should be free."""
    quarantined: float = 0.05
    """Share of the samples set aside over ten minutes."""


def recording_rules() -> dict[str, Any]:
    """The content of ``rules/recording.yml``."""
    rules = {
        "run:steelyard_step_age_seconds": "time() - max by (run) (steelyard_step_timestamp_seconds)",
        "run:steelyard_checkpoint_age_seconds": "time() - max by (run) (steelyard_checkpoint_timestamp_seconds)",
        "run:steelyard_in_loop:bool": f"max by (run) ({LOOP_STAGE} == bool 1)",
        "run:steelyard_samples:rate5m": "max by (run) (rate(steelyard_samples_total[5m]))",
        "run:steelyard_tokens:rate5m": "max by (run) (rate(steelyard_tokens_total[5m]))",
        "run:steelyard_storage_free:ratio": "min by (run) (steelyard_storage_free_bytes / steelyard_storage_bytes)",
        "run_constraint:steelyard_slack:min": "min by (run, constraint) (steelyard_slack)",
        "run_constraint:steelyard_multiplier:share_of_cap": "max by (run, constraint) (steelyard_multiplier) "
        "/ max by (run, constraint) (steelyard_multiplier_cap)",
        "run_rank:steelyard_generator_lag:max": "max by (run) (steelyard_weight_version) - on (run) group_right () "
        "max by (run, role, rank) (steelyard_generator_weight_version)",
        "instance:ray_node_disk_free:ratio": "min by (instance) (ray_node_disk_free / (ray_node_disk_free + ray_node_disk_usage))",
    }
    return _groups("steelyard-recording", [{"record": name, "expr": expression} for name, expression in rules.items()])


def alert_rules(limits: Thresholds) -> dict[str, Any]:
    """The content of ``rules/alerts.yml``."""
    return _groups("steelyard-alerts", [*_of_constraints(limits), *_of_progress(limits), *_of_resources(limits)])


def _of_constraints(limits: Thresholds) -> list[dict[str, Any]]:
    return [
        _alert(
            "SteelyardConstraintViolated",
            f"max by (run, constraint) (steelyard_violated_steps) >= {limits.violated_steps}",
            "warning",
            "{{ $labels.run }}: {{ $labels.constraint }} has been above its limit for {{ $value }} steps",
            "Look at its multiplier: at the cap, raise dual.cap or scale; still rising, wait; falling, raise its learning rate.",
        ),
        _alert(
            "SteelyardMultiplierAtCap",
            f"run_constraint:steelyard_multiplier:share_of_cap >= {AT_CAP:g}",
            "warning",
            "{{ $labels.run }}: the multiplier of {{ $labels.constraint }} is at dual.cap",
            "The constraint cannot pull harder: raise dual.cap, or accept that the limit is not met.",
            for_="2m",
        ),
        _alert(
            "SteelyardKlOverBudget",
            "max by (run) (steelyard_kl) > on (run) max by (run) (steelyard_kl_budget)",
            "warning",
            "{{ $labels.run }}: KL is {{ $value }} nats per response, above ppo.kl_budget",
            "The loop ends after such a step: raise ppo.kl_coefficient, or the budget.",
        ),
        _alert(
            "SteelyardNotFinite",
            "max by (run) (max_over_time(steelyard_not_finite[10m])) > 0 "
            "or max by (run) (steelyard_reward != steelyard_reward) "
            'or sum by (run) (increase(steelyard_scorer_faults_total{fault=~".*/not_finite"}[10m])) > 0',
            "critical",
            "{{ $labels.run }}: a score, loss or figure is NaN or infinite",
            "The run's message names the requests; lower the learning rate, or look at the scorer's log.",
        ),
    ]


def _of_progress(limits: Thresholds) -> list[dict[str, Any]]:
    silent, checkpoint = limits.silent_minutes * 60, limits.checkpoint_minutes * 60
    in_loop = "and on (run) run:steelyard_in_loop:bool == 1"
    return [
        _alert(
            "SteelyardNoStep",
            f"run:steelyard_step_age_seconds > {silent:g} {in_loop}",
            "critical",
            "{{ $labels.run }}: no step for {{ $value | humanizeDuration }}",
            "Look at the actors' logs in Ray's dashboard; a remote wait ends by itself at resources.deadlines.",
        ),
        _alert(
            "SteelyardRunFailed",
            'max by (run) (last_over_time(steelyard_run_state{state="failed"}[10m])) == 1',
            "critical",
            "{{ $labels.run }} has failed",
            "status.json and the job's log say why; the same command goes on where it stopped.",
        ),
        _alert(
            "SteelyardRunVanished",
            'max by (run) (last_over_time(steelyard_run_state{state="running"}[10m])) == 1 '
            "unless on (run) max by (run) (steelyard_run_state)",
            "critical",
            "{{ $labels.run }} was running and shows nothing any more",
            "Its driver was killed or its node is gone: look at the job, and submit it again to go on.",
            for_="1m",
        ),
        _alert(
            "SteelyardGeneratorBehind",
            f"run_rank:steelyard_generator_lag:max > {limits.versions_behind} {in_loop}",
            "warning",
            "{{ $labels.run }}: {{ $labels.role }}-{{ $labels.rank }} is {{ $value }} weight versions behind",
            "It draws no samples meanwhile: look at its log, and at resources.deadlines.broadcast_seconds.",
            for_="1m",
        ),
        _alert(
            "SteelyardGeneratorDown",
            f"max by (run, role, rank) (steelyard_generator_serving) == 0 {in_loop}",
            "warning",
            "{{ $labels.run }}: {{ $labels.role }}-{{ $labels.rank }} has not served for five minutes",
            "After resources.generators.max_restarts it stays away: look at its log.",
            for_="5m",
        ),
        _alert(
            "SteelyardCheckpointOld",
            f"run:steelyard_checkpoint_age_seconds > {checkpoint:g} {in_loop}",
            "warning",
            "{{ $labels.run }}: {{ $value | humanizeDuration }} of work since the last checkpoint",
            "Lower ppo.checkpoint_every.",
        ),
        _alert(
            "SteelyardSamplesSetAside",
            "sum by (run) (increase(steelyard_quarantined_samples_total[10m])) / (sum by (run) "
            "(increase(steelyard_quarantined_samples_total[10m])) + sum by (run) (increase(steelyard_samples_total[10m]))) "
            f"> {limits.quarantined:g}",
            "warning",
            "{{ $labels.run }}: {{ $value | humanizePercentage }} of the samples have no usable score",
            "The run's warnings name signal and reason; more than half of a batch end the run.",
        ),
    ]


def _of_resources(limits: Thresholds) -> list[dict[str, Any]]:
    return [
        _alert(
            "SteelyardStorageNearlyFull",
            f"run:steelyard_storage_free:ratio < {limits.disk_free:g}",
            "warning",
            "{{ $labels.run }}: {{ $value | humanizePercentage }} of its storage are free",
            "Checkpoints, candidates and rollouts grow with every step: make room, or fewer selection.candidates.",
        ),
        _alert(
            "SteelyardNodeDiskNearlyFull",
            f"instance:ray_node_disk_free:ratio < {limits.disk_free:g}",
            "warning",
            "{{ $labels.instance }}: {{ $value | humanizePercentage }} of the node's disk are free",
            "Ray spills objects there and stops at 95 %: make room.",
        ),
        _alert(
            "SteelyardTargetDown",
            'up{job=~"ray|steelyard"} == 0',
            "warning",
            "{{ $labels.instance }} ({{ $labels.job }}) does not answer",
            "The node or the exporter is gone.",
            for_="1m",
        ),
    ]


def _alert(
    name: str, expression: str, severity: str, summary: str, action: str, *, for_: str | None = None
) -> dict[str, Any]:
    rule: dict[str, Any] = {"alert": name, "expr": expression}
    if for_ is not None:
        rule["for"] = for_
    return rule | {"labels": {"severity": severity}, "annotations": {"summary": summary, "description": action}}


def _groups(name: str, rules: list[dict[str, Any]]) -> dict[str, Any]:
    return {"groups": [{"name": name, "rules": rules}]}
