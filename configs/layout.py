"""The only place that builds paths inside a run directory."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class RunLayout:
    """Paths of one run: ``<storage>/<name>/…``."""

    root: Path

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.root / "config.resolved.yaml"

    @property
    def manifest(self) -> Path:
        """Which stage made what, from which inputs, with which key."""
        return self.root / "manifest.json"

    @property
    def status(self) -> Path:
        """Where the run is now; replaced atomically, read by every follower."""
        return self.root / "status.json"

    @property
    def summary(self) -> Path:
        """The figures of a finished run."""
        return self.root / "summary.json"

    @property
    def metrics(self) -> Path:
        """One JSON line per optimiser step."""
        return self.root / "metrics.jsonl"

    @property
    def report(self) -> Path:
        """The self-contained HTML report."""
        return self.root / "report.html"

    @property
    def rollouts(self) -> Path:
        """Parquet files of every sample that was learned from."""
        return self.root / "rollouts"

    @property
    def checkpoints(self) -> Path:
        """Learner checkpoints of the loop."""
        return self.root / "checkpoints"

    def logs(self, attempt: int) -> Path:
        """Logs of one attempt, counted from 1."""
        return self.root / "logs" / f"attempt-{attempt}"

    def attempts(self) -> int:
        """How many attempts have left logs."""
        return len(list((self.root / "logs").glob("attempt-*")))

    @property
    def data(self) -> Path:
        """The tokenizer and the training sets that stages make for their trainers."""
        return self.root / "data"

    @property
    def sft(self) -> Path:
        """The supervised policy: a Hugging Face folder."""
        return self.root / "sft"

    def round(self, number: int) -> Path:
        """Everything that round `number` (from 1) made."""
        return self.root / "rounds" / str(number)

    def preferences(self, number: int) -> Path:
        """``pairs.parquet`` (sampled) and ``preferences.parquet`` (labelled)."""
        return self.round(number) / "preferences"

    def reward(self, number: int) -> Path:
        """The reward model: a Hugging Face folder."""
        return self.round(number) / "reward"

    def cost(self, number: int, constraint: str) -> Path:
        """The cost model of one constraint: a Hugging Face folder."""
        return self.round(number) / f"cost-{constraint}"

    def policy(self, number: int) -> Path:
        """The trained policy: a Hugging Face folder."""
        return self.round(number) / "policy"

    def reward_test(self, number: int) -> Path:
        """The test-half reward model, which only watches: a Hugging Face folder."""
        return self.round(number) / "reward-test"

    def candidates(self, number: int) -> Path:
        """Snapshots of the loop that may be promoted: one Hugging Face folder per step."""
        return self.round(number) / "candidates"

    def selection(self, number: int) -> Path:
        """Which snapshot was promoted and why."""
        return self.round(number) / "selection.json"

    def evaluation(self, number: int) -> Path:
        """``samples.parquet`` and ``evaluation.json``."""
        return self.round(number) / "evaluation"

    def metrics_of(self, number: int) -> Path:
        """`metrics` of round `number`; a later round's are below its folder."""
        return self.metrics if number == 1 else self.round(number) / self.metrics.name

    def rollouts_of(self, number: int) -> Path:
        """`rollouts` of round `number`."""
        return self.rollouts if number == 1 else self.round(number) / self.rollouts.name

    def data_of(self, number: int) -> Path:
        """The training sets of round `number`'s own models."""
        return self.data if number == 1 else self.round(number) / self.data.name

    def training_pairs(self, number: int) -> Path:
        """Every labelled pair that the score models of round `number` learn from; of round 1 its own."""
        return self.preferences(number) / ("preferences.parquet" if number == 1 else "training.parquet")

    def finds(self, number: int) -> Path:
        """What the red team found against the policy of the round before `number`."""
        return self.round(number) / "redteam.parquet"

    @property
    def rounds(self) -> Path:
        """The round manifest: which model made which data, and each finished round's figures."""
        return self.root / "rounds.json"

    def last_round(self) -> int:
        """The last finished round of `rounds`; 1 where there is no such file, or nothing finished in it.

        Raises:
            ValueError: the file is not JSON.
        """
        if not self.rounds.is_file():
            return 1
        finished = json.loads(self.rounds.read_text(encoding="utf-8")).get("rounds", [])
        return max((int(entry["round"]) for entry in finished), default=1)

    def arm(self, name: str, seed: int) -> RunLayout:
        """The run directory of one arm of a comparison."""
        return RunLayout(self.root / "arms" / f"{name}-seed{seed}")
