"""Figures as text for a terminal."""

from __future__ import annotations

import pytest

from cluster.commands.text.cells import cell_text
from learner.statistics.certificate import Certificate


def test_no_figure_is_minus_nought() -> None:
    assert cell_text({"value": -0.0004, "low": -0.0004, "high": 0.0001}, share=True) == "0.0 %\n[0.0, 0.0]"
    assert cell_text({"value": -0.004, "low": None, "high": None}, share=False) == "0.00"


@pytest.mark.parametrize("low", [-0.0004, -0.02])
def test_a_verdict_has_no_minus_nought_either(low: float) -> None:
    certificate = Certificate(True, "rate", 0.0, low, 0.01, 0.02, 0.05, 100, 0.95, "gold")
    assert ("-0.0" in certificate.verdict()) is False
    assert ("[-2.0" in certificate.verdict()) is (low < -0.01)
