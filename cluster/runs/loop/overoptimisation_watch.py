"""The two halves' reward models over a running loop: their gap after every step, and the alarm while there is time to stop."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from configs.schema.supervised import HalvesSettings
from learner.statistics.overoptimisation import HalvesGap, halves_alarm, halves_gap

SIGNAL = "reward_test"
"""The test model's score: watched, never learned from."""
ALARM_EVERY = 10
"""Steps between two warnings."""


class HalvesWatch:
    """What the train and the test model say of the same batches; nothing where `halves.enabled` is off.

    Args:
        train_baseline, test_baseline: mean and spread of each model on the preference set.
        earlier: lines of metrics.jsonl from before a resume.
    """

    def __init__(
        self,
        settings: HalvesSettings,
        train_baseline: tuple[float, float],
        test_baseline: tuple[float, float],
        earlier: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._settings, self._baselines = settings, (train_baseline, test_baseline)
        self._train = [float(line["reward"]) for line in earlier]
        self._test = [float(line[f"watched/{SIGNAL}"]) for line in earlier] if settings.enabled else []

    def observe(self, line: Mapping[str, Any]) -> dict[str, float]:
        """Take one step's line; returns ``halves_gap`` to add to it."""
        if not self._settings.enabled:
            return {}
        self._train.append(float(line["reward"]))
        self._test.append(float(line[f"watched/{SIGNAL}"]))
        return {"halves_gap": self.gap().gap}

    def gap(self) -> HalvesGap:
        """Of all steps so far."""
        return halves_gap(self._train, self._test, *self._baselines)

    def alarm(self, step: int) -> str | None:
        """The warning, at every tenth step that the gap is too wide."""
        if not self._settings.enabled or step % ALARM_EVERY:
            return None
        return halves_alarm(self.gap(), self._settings.alarm)

    def facts(self) -> dict[str, Any]:
        """For the summary."""
        return {"halves": asdict(self.gap())} if self._settings.enabled else {}
