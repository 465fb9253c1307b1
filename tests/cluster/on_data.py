"""A configuration on data, with the files that it names."""

from __future__ import annotations

import json
from pathlib import Path

from tests.learner.data.made_up import hh

CONFIG = """
name: on-data
constraints: {harm: {measure: mean, limit: 0.0}}
data:
  root: ROOT
  demonstrations: [{source: harmless.jsonl}]
  show: safer
  helpfulness: [{source: helpful.jsonl}]
  harmlessness: [{source: harmless.jsonl, tags: [dangerous]}]
"""


def config_in(folder: Path) -> Path:
    """Write both into the folder; returns the configuration."""
    for name in ("harmless", "helpful"):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(hh(number)) + "\n" for number in range(4)))
    path = folder / "run.yaml"
    path.write_text(CONFIG.replace("ROOT", str(folder)))
    return path
