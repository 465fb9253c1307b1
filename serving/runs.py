"""Finding a run by what a person types: its folder, or its name below ``runs/``."""

from __future__ import annotations

import difflib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from configs.exits import ConfigError, DataError
from configs.layout import RunLayout


def find_run(run: str, storage: Path | None = None) -> Path:
    """The run's folder.

    Args:
        run: a path, or a name below `storage`, such as ``quickstart`` or ``tension/arms/papers-seed0``.
        storage: folder of run folders; None means ``runs/`` where you are.

    Raises:
        ConfigError: there is none; the message names close ones.
    """
    storage = storage or Path.cwd() / "runs"
    for folder in (Path(run), storage / run):
        if folder.is_dir() and _is_run(folder):
            return folder.resolve()
    run_names = sorted(path.name for path in storage.iterdir() if _is_run(path)) if storage.is_dir() else []
    close = difflib.get_close_matches(run, run_names, n=3) or run_names[:5]
    hint = f"did you mean {', '.join(close)}?" if close else "no run is there yet: start one with `steelyard demo`"
    raise ConfigError(f"no run '{run}' here or in {storage}: {hint}")


def find_tokenizer_folder(root: Path) -> Path | None:
    """A model folder of the run that holds the tokenizer; an arm may share its run's supervised policy."""
    layouts = [RunLayout(root)]
    if root.parent.name == "arms":
        layouts.append(RunLayout(root.parent.parent))
    for layout in layouts:
        for folder in (layout.sft, layout.policy(1), layout.reward(1), layout.data / "tokenizer"):
            if (folder / "tokenizer.json").is_file():
                return folder
    return None


def last_round(root: Path) -> int:
    """The last finished round of a run; 1 of a run of one round, or where none is finished.

    Raises:
        DataError: the round manifest cannot be read.
    """
    layout = RunLayout(root)
    try:
        return layout.last_round()
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{layout.rounds}: no round manifest ({error}); run the same command again to write it"
        ) from error


def safety_labels(root: Path) -> frozenset[str] | None:
    """Constraints of a run on data whose cost was trained on safety labels; None on the sandbox, where every cost was.

    Raises:
        DataError: the manifest cannot be read.
    """
    path = RunLayout(root).manifest
    if not path.is_file():
        return None
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DataError(f"{path}: not JSON ({error})") from error
    return labelled_in(manifest)


def labelled_in(manifest: Mapping[str, Any]) -> frozenset[str] | None:
    """`safety_labels` of a manifest's content."""
    data = manifest.get("stages", {}).get("data")
    if data is None:
        return None
    labels = data.get("facts", {}).get("harm-labels", {})
    return frozenset(name for name, label_facts in labels.items() if label_facts.get("signed"))


def _is_run(folder: Path) -> bool:
    layout = RunLayout(folder)
    return any(path.exists() for path in (layout.config, layout.summary, layout.manifest, layout.rollouts, layout.sft))
