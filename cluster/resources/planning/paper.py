"""Scale on paper: 7B, 13B and 70B on 8 to 512 GPUs, each with its fastest split. docs/planning.md holds what this prints."""

from __future__ import annotations

from dataclasses import dataclass

from cluster.resources.planning.hardware import Cluster, find_hardware
from cluster.resources.planning.memory import AS_BUILT, Sharding
from cluster.resources.planning.plan import Plan, Question
from cluster.resources.planning.search import fastest_split
from cluster.resources.planning.sizes import named_shape
from cluster.resources.planning.workload import read_workload
from configs.load import load_settings
from configs.schema.run import RunSettings

KIND, PER_NODE = "h100", 8
SIZES = ("7b", "13b", "70b")
GPUS = (8, 16, 32, 64, 128, 256, 512)
ROWS_PER_GPU = 16
"""Samples of a step for each GPU, as the papers' script has them."""
_PRESET = "beaver_7b"
_SHARDINGS = (AS_BUILT, *(Sharding(shards, sharded_load=True) for shards in (1, 2, 4, 8)))
BEGIN, END = "<!-- steelyard plan --table -->", "<!-- end of the table -->"
"""What the generated table stands between in the page."""


@dataclass(frozen=True)
class Row:
    """One model on one number of GPUs."""

    size: str
    gpus: int
    plan: Plan | None
    """None: no split fits, whatever is assumed."""


def paper_row(size: str, gpus: int) -> Row:
    """The fastest split, by the code as it is or, where nothing fits, by the least that it lacks."""
    settings = scaled(load_settings(_PRESET), gpus)
    cluster = Cluster(find_hardware(KIND), gpus // PER_NODE, PER_NODE)
    for sharding in _SHARDINGS:
        question = Question(settings.resources, named_shape(size), read_workload(settings), cluster, sharding=sharding)
        plan = fastest_split(settings, question)
        if plan is not None:
            return Row(size, gpus, plan)
    return Row(size, gpus, None)


def scaled(settings: RunSettings, gpus: int) -> RunSettings:
    """The papers' run with a batch that grows with the GPUs, and as many trainers as there are."""
    batch = ROWS_PER_GPU * gpus
    ppo = settings.ppo.model_copy(update={"batch_size": batch, "minibatch_size": batch, "ptx_batch_size": batch})
    sft = settings.sft.model_copy(update={"batch_size": gpus})
    reward = settings.reward_model.model_copy(update={"batch_size": batch})
    cost = settings.cost_model.model_copy(update={"batch_size": batch})
    direct = settings.direct.model_copy(update={"batch_size": batch})
    workers = settings.resources.supervised.model_copy(update={"workers": gpus})
    resources = settings.resources.model_copy(update={"supervised": workers})
    changes = {
        "ppo": ppo,
        "sft": sft,
        "reward_model": reward,
        "cost_model": cost,
        "direct": direct,
        "resources": resources,
    }
    return settings.model_copy(update=changes)


def paper_table(sizes: tuple[str, ...] = SIZES, gpus: tuple[int, ...] = GPUS) -> str:
    """The table in Markdown."""
    lines = [
        "| model | GPUs | engines + scorers + ranks | step, s | samples/s | per GPU | bottleneck | lacks |",
        "|---|---:|---|---:|---:|---:|---|---|",
    ]
    lines += [_line(paper_row(size, number)) for size in sizes for number in gpus]
    return "\n".join(lines)


def _line(row: Row) -> str:
    plan = row.plan
    head = f"| {row.size.upper()} | {row.gpus} |"
    if plan is None:
        return f"{head} does not fit | | | | | |"
    resources, sharding = plan.question.resources, plan.question.sharding
    scorers = resources.scorers.replicas * (1 if resources.scorers.colocate else 1 + plan.question.work.signals)
    split = f"{resources.generators.count} + {scorers} + {resources.learner.ranks}"
    if resources.placement != "disaggregated":
        split += f", {resources.placement}"
    lacks = [] if not sharding.sharded_load else ["sharded loading"]
    lacks += [f"engines over {sharding.tensor_parallel} GPUs"] if sharding.tensor_parallel > 1 else []
    seconds = plan.step_seconds
    speed = f"{seconds:.1f} | {plan.samples_per_second:.2f} | {plan.samples_per_second / row.gpus:.3f}"
    return f"{head} {split} | {speed} | {plan.bottleneck} | {', '.join(lacks) or 'nothing'} |"
