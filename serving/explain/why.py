"""Why a sample was learned from as it was: its text, scores, multipliers, and the advantage of every token.

Reads the rollouts that the learner ranks wrote (columns: see `learner.ranks.rollout_files`); imports no engine.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from configs.exits import ConfigError, DataError
from configs.layout import RunLayout
from serving.runs import find_tokenizer_folder, last_round, safety_labels

_LATER = re.compile(r"r(\d+)-")
STRONG = 1.0
"""An advantage of this size gets the strongest colour; smaller ones fade."""


@dataclass(frozen=True)
class TokenStory:
    """One response token."""

    token: str
    advantage: float
    """Combined over signals: what the policy's loss used."""
    signal_advantages: Mapping[str, float]
    behaviour_logprob: float
    proximal_logprob: float
    reference_logprob: float

    @property
    def kl(self) -> float:
        """Proximal less reference log-prob, nats: what the KL penalty is taken on."""
        return self.proximal_logprob - self.reference_logprob


@dataclass(frozen=True)
class Explanation:
    """Everything `steelyard why` shows of one sample."""

    request_id: str
    prompt_id: str
    step: int
    weight_version: int
    finish_reason: str
    prompt: str
    response: str
    reward: float | None
    costs: Mapping[str, float]
    """Positive is unsafe, or above the cost's zero where `labelled` says that no safety label stands behind it."""
    multipliers: Mapping[str, float]
    applies: Mapping[str, bool]
    """Whether each constraint covers this prompt; where it does not, its cost moved nothing."""
    labelled: Mapping[str, bool]
    """Whether each cost was trained on safety labels."""
    tokens: Sequence[TokenStory]

    def as_json(self) -> dict[str, Any]:
        """Plain values, for scripts."""
        plain = asdict(self)
        for token, story in zip(plain["tokens"], self.tokens, strict=True):
            token["kl"] = story.kl
        return plain


def explain(run_root: Path, sample_id: str, round_number: int | None = None) -> Explanation:
    """Find a sample by its request id.

    Args:
        round_number: of a run of several; none: the round that the id names, else the last finished one.

    Raises:
        ConfigError: no sample has this id; the message has close ones and how to list them.
        DataError: the run kept no rollouts, or a file is damaged.
    """
    sample_ids: list[str] = []
    for path in _rollout_files(run_root, round_number or _round_in(sample_id)):
        ids = _read(path, ["request_id"]).column("request_id")
        position = pc.index(ids, sample_id).as_py()
        if position >= 0:
            row = _read(path, None).slice(position, 1).to_pylist()[0]
            return _explanation(row, _words(run_root), safety_labels(run_root))
        sample_ids += ids.to_pylist()
    close = difflib.get_close_matches(sample_id, sample_ids, n=3, cutoff=0.5)
    hint = f"close: {', '.join(close)}" if close else f"such as {sample_ids[0]}" if sample_ids else "there is none"
    raise ConfigError(f"no sample '{sample_id}' in {run_root.name} ({hint}); list them with `steelyard why RUN --list`")


def list_samples(run_root: Path, step: int | None = None, round_number: int | None = None) -> list[dict[str, Any]]:
    """Id, step, reward and costs of every sample (of one step), in the order learned from; raises as `explain`."""
    rows: list[dict[str, Any]] = []
    for path in _rollout_files(run_root, round_number):
        names = pq.read_schema(path).names
        scalars = [name for name in names if name in ("request_id", "prompt_id", "step", "reward") or _is_cost(name)]
        rows += [row for row in _read(path, scalars).to_pylist() if step is None or row["step"] == step]
    return sorted(rows, key=lambda row: (row["step"], row["request_id"]))


def render(story: Explanation) -> RenderableType:
    """The explanation for a terminal: who said what, the scores, and a table with a line per token."""
    head = Table.grid(padding=(0, 2))
    head.add_column(style="dim")
    head.add_column(overflow="fold")
    head.add_row("sample", Text(f"{story.request_id}  (prompt {story.prompt_id})"))
    head.add_row("step", f"{story.step}, weights of version {story.weight_version}, ended by {story.finish_reason}")
    head.add_row("prompt", Text(story.prompt))
    head.add_row("response", Text(story.response, style="bold"))
    head.add_row("reward", "–" if story.reward is None else f"{story.reward:+.3f}")
    for name, cost in story.costs.items():
        sides = ("unsafe", "safe") if story.labelled[name] else ("above its zero", "at or below its zero")
        side = sides[0] if cost > 0 else sides[1]
        reach = "" if story.applies.get(name, True) else "; the constraint does not cover this prompt"
        multiplier = story.multipliers.get(name)
        weight = "" if multiplier is None else f", multiplier {multiplier:.3f}"
        head.add_row(f"cost/{name}", f"{cost:+.3f} ({side}){weight}{reach}")
    return Group(head, Text(), _token_table(story))


def _token_table(story: Explanation) -> Table:
    signals = list(story.tokens[0].signal_advantages) if story.tokens else []
    table = Table(title="advantage of every token", title_justify="left", header_style="dim", box=None)
    table.add_column("token", no_wrap=True)
    for name in ("advantage", *(f"A {signal}" for signal in signals), "log-prob", "KL"):
        table.add_column(name, justify="right")
    for token in story.tokens:
        table.add_row(
            Text(token.token, style=_colour(token.advantage)),
            Text(f"{token.advantage:+.3f}", style=_colour(token.advantage)),
            *(f"{token.signal_advantages[signal]:+.3f}" for signal in signals),
            f"{token.behaviour_logprob:.3f}",
            f"{token.kl:+.3f}",
        )
    return table


def _colour(advantage: float) -> str:
    """Green for tokens made likelier, red for those made rarer; bright when strong."""
    hue = "green" if advantage > 0 else "red"
    return f"bold {hue}" if abs(advantage) >= STRONG else hue if abs(advantage) >= STRONG / 10 else "dim"


def _round_in(sample_id: str) -> int | None:
    """The later round that a request id names (``r2-ppo-…``)."""
    match = _LATER.match(sample_id)
    return int(match[1]) if match else None


def _rollout_files(run_root: Path, round_number: int | None) -> list[Path]:
    number = last_round(run_root) if round_number is None else round_number
    folder = RunLayout(run_root).rollouts_of(number)
    if round_number is not None and round_number > 1 and not folder.is_dir():
        raise ConfigError(
            f"{run_root.name} has no samples of round {number}; the last finished one is {last_round(run_root)}"
        )
    files = sorted(path for path in folder.glob("*.parquet") if not path.name.startswith("."))
    if not files:
        arms = sorted(path.name for path in (run_root / "arms").glob("*") if path.is_dir())
        hint = f"; name one of its arms: {run_root.name}/arms/{arms[0]}" if arms else ": has PPO taken a step yet?"
        raise DataError(f"{run_root.name} has no rollouts{hint}")
    return files


def _read(path: Path, columns: list[str] | None) -> pa.Table:
    try:
        return pq.read_table(path, columns=columns)
    except (OSError, pa.ArrowInvalid) as error:
        raise DataError(f"{path}: rollouts cannot be read ({' '.join(str(error).split())})") from error


def _words(run_root: Path) -> Tokenizer | None:
    folder = find_tokenizer_folder(run_root)
    return None if folder is None else Tokenizer.from_file(str(folder / "tokenizer.json"))


def _is_cost(name: str) -> bool:
    return name.startswith("cost/")


def _after(row: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Columns below a prefix, without it."""
    return {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}


def _explanation(row: Mapping[str, Any], tokenizer: Tokenizer | None, labelled: frozenset[str] | None) -> Explanation:
    start, length = row["prompt_length"], row["response_length"]
    prompt_ids, response_ids = row["token_ids"][:start], row["token_ids"][start : start + length]
    signals = _after(row, "advantages/")
    stories = [
        TokenStory(
            token=token,
            advantage=float(row["advantages"][index]),
            signal_advantages={signal: float(values[index]) for signal, values in signals.items()},
            behaviour_logprob=float(row["behaviour_logprobs"][index]),
            proximal_logprob=float(row["proximal_logprobs"][index]),
            reference_logprob=float(row["reference_logprobs"][index]),
        )
        for index, token in enumerate(_word(tokenizer, token_id) for token_id in response_ids)
    ]
    costs = {name: float(value) for name, value in _after(row, "cost/").items()}
    reward = row.get("reward")
    return Explanation(
        request_id=row["request_id"],
        prompt_id=row["prompt_id"],
        step=row["step"],
        weight_version=row["weight_version"],
        finish_reason=row["finish_reason"],
        prompt=_text(tokenizer, prompt_ids),
        response=_text(tokenizer, response_ids),
        reward=None if reward is None or math.isnan(reward) else float(reward),
        costs=costs,
        multipliers={name: float(value) for name, value in _after(row, "multiplier/").items()},
        applies={name: bool(value) for name, value in _after(row, "applies/").items()},
        labelled={name: labelled is None or name in labelled for name in costs},
        tokens=stories,
    )


def _text(tokenizer: Tokenizer | None, token_ids: Sequence[int]) -> str:
    """A whole text: the words of the sandbox's vocabulary, else decoded at once, since a letter may take several tokens."""
    if tokenizer is None or isinstance(tokenizer.model, WordLevel):
        return " ".join(_word(tokenizer, token_id) for token_id in token_ids)
    text: str = tokenizer.decode(list(token_ids), skip_special_tokens=False)
    return text


def _word(tokenizer: Tokenizer | None, token_id: int) -> str:
    token = None if tokenizer is None else tokenizer.id_to_token(token_id)
    if tokenizer is None or token is None:
        return f"#{token_id}"
    if isinstance(tokenizer.model, WordLevel):
        return token
    # As a token stands in its text, not as the vocabulary spells its bytes; a line feed must not break the table.
    text: str = tokenizer.decode([token_id], skip_special_tokens=False)
    return text.replace("\n", "\\n") or token
