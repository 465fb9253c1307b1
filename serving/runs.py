"""Finding a run by what a person types: its folder, or its name below ``runs/``."""

from __future__ import annotations

import difflib
from pathlib import Path

from configs.exits import ConfigError
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
    known = sorted(path.name for path in storage.iterdir() if _is_run(path)) if storage.is_dir() else []
    close = difflib.get_close_matches(run, known, n=3) or known[:5]
    hint = f"did you mean {', '.join(close)}?" if close else "no run is there yet: start one with `steelyard demo`"
    raise ConfigError(f"no run '{run}' here or in {storage}: {hint}")


def find_tokenizer_folder(root: Path) -> Path | None:
    """A model folder of the run that holds the tokenizer; an arm may share its run's supervised policy."""
    layouts = [RunLayout(root)]
    if root.parent.name == "arms":
        layouts.append(RunLayout(root.parent.parent))
    for layout in layouts:
        for folder in (layout.sft, layout.policy(1), layout.reward(1)):
            if (folder / "tokenizer.json").is_file():
                return folder
    return None


def _is_run(folder: Path) -> bool:
    layout = RunLayout(folder)
    return any(path.exists() for path in (layout.config, layout.summary, layout.manifest, layout.rollouts, layout.sft))
