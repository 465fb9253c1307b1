"""The only place that builds paths inside a run directory."""

from __future__ import annotations

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
        """Where the run is now; replaced atomically, read by whoever follows."""
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

    def arm(self, name: str, seed: int) -> RunLayout:
        """The run directory of one arm of a comparison."""
        return RunLayout(self.root / "arms" / f"{name}-seed{seed}")
