"""One row's scores by every role: a sample that may be learned from, or the reason to set it aside; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from actors.scoring.model_scorer import ScoreMeta
from learner.records import RolloutMeta, ScoredSample


def scored_sample(
    rollout: RolloutMeta, row: int, metas: Sequence[ScoreMeta], signals: set[str]
) -> tuple[ScoredSample | None, str]:
    """The scored sample of one row; or None and the reason why it must be set aside.

    Args:
        metas: of every role, for the chunk the row is in.
        signals: that must have a score; without ``reward`` among them the reward is 0.

    What is neither reward nor cost is watched only: ``reward_test``, and ``spread/<signal>`` of an ensemble's signal.
    """
    scores: dict[str, float] = {}
    spreads: dict[str, float] = {}
    for meta in metas:
        if meta.request_ids[row] != rollout.request_id:
            return None, f"a scorer answered for request {meta.request_ids[row]}"
        if rollout.request_id in meta.faults:
            return None, meta.faults[rollout.request_id]
        scores |= {name: values[row] for name, values in meta.scores.items()}
        spreads |= {f"spread/{name}": values[row] for name, values in meta.spreads.items()}
    missing = signals - scores.keys()
    if missing:
        return None, f"no score: {', '.join(sorted(missing))}"
    costs: Mapping[str, float] = {
        name.removeprefix("cost/"): value for name, value in scores.items() if name.startswith("cost/")
    }
    watched = {name: value for name, value in scores.items() if name != "reward" and not name.startswith("cost/")}
    return ScoredSample(rollout, scores.get("reward", 0.0), costs, watched=watched | spreads), ""


def fault_names(request_id: str, metas: Sequence[ScoreMeta]) -> list[str]:
    """``<signal>/<ScorerFault>`` of every signal that has no score of one request."""
    return [f"{signal}/{kind}" for meta in metas for signal, kind in meta.fault_kinds.get(request_id, {}).items()]


def overlap_efficiency(total_seconds: float, generate_seconds: float, score_busy_seconds: float) -> float:
    """Share of the scorers' work that cost no time of its own: 1 - (time after the last sample) / (scorers' work)."""
    if score_busy_seconds <= 0:
        return 1.0
    return min(1.0, max(0.0, 1.0 - (total_seconds - generate_seconds) / score_busy_seconds))
