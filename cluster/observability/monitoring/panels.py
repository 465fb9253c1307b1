"""What the dashboards show: panels and their queries as plain data, over the catalogue, Ray's nodes and vLLM.

In a query ``$run`` and ``$constraint`` are the dashboard's variables. ``max by`` because a run may be seen twice, through
Ray and through an exporter.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Query:
    """One query and how its lines are called."""

    expression: str
    legend: str = "{{run}}"


@dataclass(frozen=True)
class Panel:
    """One panel."""

    title: str
    unit: str
    """Grafana's: ``short``, ``s``, ``bytes``, ``percentunit`` …"""
    queries: tuple[Query, ...]
    about: str = ""
    kind: Literal["lines", "number", "name"] = "lines"
    """Over time; the value now; or which line there is now."""
    needs: str = ""
    """What a cluster must have for the queries to give anything; empty: nothing special."""


@dataclass(frozen=True)
class Board:
    """One dashboard: rows of panels."""

    uid: str
    title: str
    rows: tuple[tuple[str, tuple[Panel, ...]], ...]
    variables: tuple[Literal["run", "constraint"], ...]


def of_run(name: str, *labels: str, selector: str = "") -> str:
    """``max by (run, …) (name{run=~"$run"…})``."""
    inside = f'run=~"$run"{selector}'
    return f"max by ({', '.join(('run', *labels))}) ({name}{{{inside}}})"


def of_constraint(name: str) -> str:
    """The same of the chosen constraints."""
    return of_run(name, "constraint", selector=', constraint=~"$constraint"')


def _plain(title: str, unit: str, name: str, about: str = "") -> Panel:
    return Panel(title, unit, (Query(of_run(name)),), about)


def _by(title: str, unit: str, name: str, label: str, about: str = "") -> Panel:
    return Panel(title, unit, (Query(of_run(name, label), f"{{{{run}}}} {{{{{label}}}}}"),), about)


_EACH = "{{run}} {{constraint}}"

_NOW = (
    Panel(
        "State", "none", (Query(of_run("steelyard_run_state", "state") + " == 1", "{{run}}: {{state}}"),), kind="name"
    ),
    Panel("Step", "none", (Query(of_run("steelyard_step")),), kind="number"),
    Panel("Slack", "none", (Query(of_constraint("steelyard_slack"), _EACH),), "Below 0: violated.", kind="number"),
    Panel(
        "Samples per second",
        "none",
        (Query(of_run("steelyard_samples_per_second", selector=', role="loop"')),),
        kind="number",
    ),
    Panel("Since the last step", "s", (Query('run:steelyard_step_age_seconds{run=~"$run"}'),), kind="number"),
    Panel("Warnings", "none", (Query(of_run("steelyard_warnings")),), kind="number"),
)
_CONSTRAINTS = (
    Panel(
        "Measure and limit",
        "none",
        (
            Query(of_constraint("steelyard_measure"), f"{_EACH} measure"),
            Query(of_constraint("steelyard_limit"), f"{_EACH} limit"),
        ),
    ),
    Panel(
        "Multiplier",
        "none",
        (
            Query(of_constraint("steelyard_multiplier"), _EACH),
            Query(of_constraint("steelyard_multiplier_cap"), f"{_EACH} cap"),
        ),
    ),
    Panel(
        "Violation rate",
        "percentunit",
        (Query(of_constraint("steelyard_violation_rate"), _EACH),),
        "Share of the window's samples with a raw cost above 0.",
    ),
    Panel("Steps above the limit in a row", "none", (Query(of_constraint("steelyard_violated_steps"), _EACH),)),
    Panel("Mean cost", "none", (Query(of_constraint("steelyard_cost"), _EACH),)),
    Panel("Samples in the window", "none", (Query(of_constraint("steelyard_window_samples"), _EACH),)),
)
_POLICY = (
    _plain("Reward", "none", "steelyard_reward"),
    _plain("KL to the reference", "none", "steelyard_kl", "Nats per response."),
    _plain("Entropy", "none", "steelyard_entropy", "Nats per token."),
    _plain("Response length", "none", "steelyard_response_length", "Tokens."),
    _plain("Truncated", "percentunit", "steelyard_truncation_rate"),
    _by("Advantages", "none", "steelyard_advantage", "statistic"),
)
_UPDATE = (
    _by("Loss", "none", "steelyard_loss", "part"),
    _by("Gradient norm", "none", "steelyard_gradient_norm", "part"),
    _by("Explained variance", "none", "steelyard_explained_variance", "signal"),
    _plain("Clip fraction", "percentunit", "steelyard_clip_fraction"),
    _by("Ratio, quantiles", "none", "steelyard_ratio", "q"),
    _by(
        "Gap between learner and generator",
        "none",
        "steelyard_delta_logprob",
        "q",
        "|Δ log-prob|, quantiles; 1 is the most.",
    ),
    _by("Importance weights", "none", "steelyard_importance_weight", "statistic"),
)
_TIME = (
    _by("Seconds per phase", "s", "steelyard_phase_seconds", "phase"),
    _by("Seconds in the learner", "s", "steelyard_learner_phase_seconds", "phase"),
    _plain("Seconds per step", "s", "steelyard_step_seconds"),
    _by("Samples per second", "none", "steelyard_samples_per_second", "role"),
    _by("Tokens per second", "none", "steelyard_tokens_per_second", "role"),
    Panel("Samples over five minutes", "none", (Query('run:steelyard_samples:rate5m{run=~"$run"}'),), "Per second."),
    _plain("Overlap of scoring and drawing", "percentunit", "steelyard_overlap_efficiency"),
    Panel(
        "Drawing and scoring",
        "s",
        (
            Query(of_run("steelyard_first_sample_seconds"), "{{run}} first sample"),
            Query(of_run("steelyard_generate_seconds"), "{{run}} last sample"),
            Query(of_run("steelyard_score_busy_seconds"), "{{run}} scorers' work"),
        ),
    ),
    _by("Seconds per stage", "s", "steelyard_stage_seconds", "stage"),
)
_RANK = "{{run}} {{role}}-{{rank}}"
_FLEET = (
    _by("Queues", "none", "steelyard_queue_depth", "queue"),
    Panel(
        "Weight version per generator",
        "none",
        (
            Query(of_run("steelyard_generator_weight_version", "role", "rank"), _RANK),
            Query(of_run("steelyard_weight_version"), "{{run}} learner"),
        ),
    ),
    Panel(
        "Generators that serve",
        "none",
        (Query('sum by (run) (max by (run, role, rank) (steelyard_generator_serving{run=~"$run"}))'),),
    ),
    Panel(
        "Staleness of samples",
        "none",
        (Query('sum by (run, le) (rate(steelyard_sample_staleness_bucket{run=~"$run"}[5m]))', "{{run}} ≤ {{le}}"),),
        "Samples per second by weight versions between drawing and learning.",
    ),
    Panel(
        "Broadcast",
        "s",
        (
            Query(of_run("steelyard_broadcast_seconds"), "{{run}} sending"),
            Query(of_run("steelyard_broadcast_wait_seconds"), "{{run}} waiting"),
        ),
    ),
    _plain("Bytes of a broadcast", "bytes", "steelyard_broadcast_bytes"),
)
_TROUBLE = (
    Panel(
        "Restarts",
        "none",
        (Query(of_run("steelyard_actor_restarts_total", "role", "rank"), _RANK),),
        needs="an actor that was started again",
    ),
    Panel(
        "Requests handed out again, samples set aside",
        "none",
        (
            Query(of_run("steelyard_retried_requests_total"), "{{run}} again"),
            Query(of_run("steelyard_quarantined_samples_total"), "{{run}} set aside"),
            Query(of_run("steelyard_duplicate_samples_total"), "{{run}} twice"),
            Query(of_run("steelyard_generator_deaths_total"), "{{run}} deaths"),
        ),
    ),
    Panel(
        "Scores that did not come",
        "none",
        (Query(of_run("steelyard_scorer_faults_total", "fault"), "{{run}} {{fault}}"),),
        needs="a scorer with faults",
    ),
    Panel("Since the last checkpoint", "s", (Query('run:steelyard_checkpoint_age_seconds{run=~"$run"}'),)),
    Panel("Seconds to write a checkpoint", "s", (Query(of_run("steelyard_checkpoint_seconds")),)),
    Panel("Bytes of a checkpoint", "bytes", (Query(of_run("steelyard_checkpoint_bytes")),)),
    Panel("Storage that is free", "percentunit", (Query('run:steelyard_storage_free:ratio{run=~"$run"}'),)),
)
_NODES = (
    Panel("CPU", "percent", (Query("avg by (instance) (ray_node_cpu_utilization)", "{{instance}}"),)),
    Panel("Memory in use", "bytes", (Query("sum by (instance) (ray_node_mem_used)", "{{instance}}"),)),
    Panel("Object store", "bytes", (Query("sum by (Location) (ray_object_store_memory)", "{{Location}}"),)),
    Panel("Disk that is free", "percentunit", (Query("instance:ray_node_disk_free:ratio", "{{instance}}"),)),
    Panel(
        "Network",
        "Bps",
        (
            Query("sum by (instance) (ray_node_network_send_speed)", "{{instance}} out"),
            Query("sum by (instance) (ray_node_network_receive_speed)", "{{instance}} in"),
        ),
    ),
    Panel("Actors by state", "none", (Query('sum by (State) (ray_actors{Source="gcs"})', "{{State}}"),)),
    Panel(
        "GPU in use",
        "percent",
        (Query("avg by (instance, GpuIndex) (ray_node_gpus_utilization)", "{{instance}} {{GpuIndex}}"),),
        needs="a GPU",
    ),
    Panel(
        "GPU memory per node",
        "decmbytes",
        (Query("sum by (instance, GpuIndex) (ray_node_gram_used)", "{{instance}} {{GpuIndex}}"),),
        needs="a GPU",
    ),
    Panel(
        "GPU memory per learner rank",
        "bytes",
        (Query("max by (run, rank) (steelyard_gpu_memory_bytes)", "{{run}} learner-{{rank}}"),),
        needs="a GPU",
    ),
)
ENGINE_METRICS = "resources.generators.engine_metrics"
_ENGINES = (
    Panel(
        "Sequences in the engines",
        "none",
        (
            Query("sum by (WorkerId) (ray_vllm_num_requests_running)", "{{WorkerId}} running"),
            Query("sum by (WorkerId) (ray_vllm_num_requests_waiting)", "{{WorkerId}} waiting"),
        ),
        needs=ENGINE_METRICS,
    ),
    Panel(
        "KV cache in use",
        "percentunit",
        (Query("max by (WorkerId) (ray_vllm_kv_cache_usage_perc)", "{{WorkerId}}"),),
        needs=ENGINE_METRICS,
    ),
    Panel(
        "Tokens drawn per second",
        "none",
        (Query("sum by (WorkerId) (rate(ray_vllm_generation_tokens_total[5m]))", "{{WorkerId}}"),),
        needs=ENGINE_METRICS,
    ),
)

BOARDS: tuple[Board, ...] = (
    Board(
        "steelyard-run",
        "Steelyard / Run",
        (
            ("Now", _NOW),
            ("Constraints", _CONSTRAINTS),
            ("Policy", _POLICY),
            ("Update", _UPDATE),
        ),
        ("run", "constraint"),
    ),
    Board(
        "steelyard-work",
        "Steelyard / Work",
        (
            ("Time", _TIME),
            ("Generators and weights", _FLEET),
            ("Trouble and safety nets", _TROUBLE),
        ),
        ("run",),
    ),
    Board("steelyard-cluster", "Steelyard / Cluster", (("Nodes", _NODES), ("vLLM", _ENGINES)), ()),
)


def panels(board: Board) -> list[Panel]:
    """All panels of a board, in order."""
    return [panel for _, row in board.rows for panel in row]
