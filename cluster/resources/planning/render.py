"""A plan as tables for people."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from cluster.resources.planning.memory import RoleMemory, gigabytes, usable
from cluster.resources.planning.plan import Plan, remedies
from cluster.resources.planning.search import Better


def render(plan: Plan, better: Better | None, *, price: float | None) -> RenderableType:
    """Head, memory by role, seconds by phase, verdict."""
    blocks: list[RenderableType] = [
        Text(_head(plan), style="bold"),
        _memory(plan),
        _phases(plan),
        Text(_verdict(plan, price)),
    ]
    blocks += [Text(f"does not fit: {shortage.describe()}", style="red") for shortage in plan.shortages]
    if better is not None:
        blocks.append(Text(_better(plan, better, price), style="green"))
    elif not plan.fits:
        blocks.append(Text(_would(plan), style="yellow"))
    blocks.append(Text(_rates(plan), style="dim"))
    return Group(*blocks)


def refusal(plan: Plan, better: Better | None) -> str:
    """One line: what is short, by how much, and what would fit."""
    first, more = plan.shortages[0], len(plan.shortages) - 1
    also = f" (and {more} more)" if more else ""
    changes = f"this would fit: {' '.join(better.overrides)}" if better else _would(plan)
    return f"{first.describe()}{also}; {changes}"


def _would(plan: Plan) -> str:
    changes = remedies(plan)
    if changes:
        return f"any of these would fit: {'; '.join(changes[:4])}"
    return "no single change of ours fits: take a larger kind of GPU, more of them, or a smaller model"


def _head(plan: Plan) -> str:
    question = plan.question
    work = question.work
    return (
        f"{question.shape.describe()} on {question.cluster.describe()}; {work.batch} samples a step, "
        f"{work.prompt_tokens:.0f} + {work.response_tokens:.0f} tokens each"
    )


def _memory(plan: Plan) -> Table:
    on_gpu = plan.question.cluster.gpus > 0
    table = Table(title="memory of one actor", title_justify="left")
    for name in ("role", "actors", "most of it", "on its GPU" if on_gpu else "in the node's memory", "of"):
        table.add_column(name, justify="left" if name in ("role", "most of it") else "right")
    for role in plan.memory:
        available = usable(plan.question.cluster) if on_gpu else plan.question.cluster.hardware.host_memory_bytes
        needed = role.device_bytes if on_gpu else role.host_bytes
        style = "red" if on_gpu and needed > available * min(role.gpus, 1.0) else ""
        table.add_row(
            role.role, str(role.actors), _largest(role, on_gpu), gigabytes(needed), gigabytes(available), style=style
        )
    if on_gpu and (pair := plan.pair) is not None:
        sharing = "the engine sleeps while the rank works" if pair.sleeps else "both at once"
        available = usable(plan.question.cluster)
        style = "red" if any(shortage.role == pair.name for shortage in plan.shortages) else ""
        table.add_row(
            pair.name, f"{pair.gpus:g} GPUs", sharing, gigabytes(pair.device_bytes), gigabytes(available), style=style
        )
    return table


def _largest(role: RoleMemory, on_gpu: bool) -> str:
    parts = role.device if on_gpu else role.host
    ordered = sorted(parts.items(), key=lambda part: -part[1])[:3]
    return ", ".join(f"{name} {gigabytes(size)}" for name, size in ordered if size > 0)


def _phases(plan: Plan) -> Table:
    table = Table(title="seconds of one step", title_justify="left")
    table.add_column("phase")
    table.add_column("seconds", justify="right")
    table.add_column("spent on")
    for phase in plan.phases:
        parts = sorted(phase.parts.items(), key=lambda part: -part[1])[:3]
        table.add_row(
            phase.name, _seconds(phase.seconds), ", ".join(f"{name} {_seconds(size)}" for name, size in parts)
        )
    table.add_row("step", _seconds(plan.step_seconds), f"bottleneck: {plan.bottleneck}", style="bold")
    return table


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}" if seconds >= 10 else f"{seconds:.2f}" if seconds >= 0.1 else f"{seconds:.3f}"


def _verdict(plan: Plan, price: float | None) -> str:
    verdict = f"{plan.samples_per_second:.3g} samples/s"
    if price is not None:
        verdict += f"; 1000 steps take {plan.step_seconds / 3.6:.1f} h and cost {plan.cost(price):,.0f} at {price:g} a device and hour"
    return verdict


def _better(plan: Plan, better: Better, price: float | None) -> str:
    faster = f"{_seconds(better.plan.step_seconds)} s a step"
    if plan.fits:
        faster += f", {1 - better.plan.step_seconds / plan.step_seconds:.0%} less"
    if price is not None:
        faster += f", {better.plan.cost(price):,.0f} for 1000 steps"
    effect = "better" if plan.fits else "this fits"
    return f"{effect} ({faster}): {' '.join(better.overrides)}"


def _rates(plan: Plan) -> str:
    if plan.rates.source == "assumed":
        return "rates are assumed shares of the data sheet: --calibrate measures them on the cluster (docs/planning.md)"
    return f"rates: {plan.rates.source}"
