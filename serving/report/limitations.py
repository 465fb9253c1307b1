"""What the figures of a sandbox run cannot show, said in every report that shows them."""

from __future__ import annotations

from serving.report.blocks import Note, Section
from serving.report.run_files import RunFiles

GOLD_FUNCTIONS = "actors.scoring.gold:"
GOLD_LIMITS = ("TODO",)


def limitations_section(run: RunFiles) -> Section:
    """Of the gold scorer always; of a loop that was trained on gold itself first of all."""
    notes = [Note(text) for text in GOLD_LIMITS]
    if (trained := _trained_on_gold(run)) is not None:
        notes.insert(0, Note(trained, tone="warning"))
    lead = "Gold is a small grammar's truth about a small world. docs/gaming.md says what was tried against it and what was found."
    return Section("limitations", "What these figures cannot show", notes, lead)


def _trained_on_gold(run: RunFiles) -> str | None:
    """Where gold itself was a signal of the loop, its figures are no measurement of it from outside."""
    signals = {"the objective": (run.settings.get("objective") or {}).get("scorer")}
    for name, one in (run.settings.get("constraints") or {}).items():
        signals[f"constraint {name}"] = (one or {}).get("scorer")
    named = [signal for signal, one in signals.items() if ((one or {}).get("python") or "").startswith(GOLD_FUNCTIONS)]
    if not named:
        return None
    return f"Gold itself was given as the signal of {' and '.join(named)}: figures by gold are what was trained on, not a check of it."
