"""Training sets from records: token files for the supervised stages, prompts for the loop.

`learner.supervised.sft` and `learner.supervised.preference` read them.

Each writer reads a stream of parsed rows once, holds one row group in memory, and leaves a whole file or none. A row that
cannot be used is left out and counted by its reason. What a prompt may be used for comes from `learner.data.splits`: of the
five purposes a file for training holds those that its reader knows, so that nothing is judged on what trained it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from transformers import PreTrainedTokenizerBase

from learner.data.layout import Ranking
from learner.data.quality.lengths import user_turns
from learner.data.quality.repeats import prompt_key
from learner.data.records import Message, Parsed, PreferencePair, PromptOnly, Record
from learner.data.set_labels import Choice, pair_of, safety_order, shown_responses
from learner.data.set_writer import Made, SetReport, write_set
from learner.data.splits import CALIBRATION, HOLDOUT, TRAIN, Shares, half_of, purpose_of
from learner.data.tokenise import TokenisedResponse, TokenLimits, UnusableRow, prompt_tokens, with_response

_PAIR_SPLITS = (TRAIN, HOLDOUT, CALIBRATION)
MOST_TURNS = 2**15 - 1
"""What its column can hold."""

_IDS = pa.list_(pa.int32())
_SIDES = [
    ("better_ids", _IDS),
    ("better_prompt_length", pa.int32()),
    ("worse_ids", _IDS),
    ("worse_prompt_length", pa.int32()),
    ("turns", pa.int16()),
]
DEMONSTRATIONS = pa.schema([("input_ids", _IDS), ("prompt_length", pa.int32()), ("holdout", pa.bool_())])
REWARD_PAIRS = pa.schema([*_SIDES, ("split", pa.string()), ("half", pa.int8())])
COST_PAIRS = pa.schema(
    [
        *_SIDES,
        ("safer_sign", pa.int8()),
        ("less_safe_sign", pa.int8()),
        ("rank_weight", pa.float32()),
        ("split", pa.string()),
    ]
)
PROMPTS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("messages", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("tags", pa.list_(pa.string())),
        ("category", pa.string()),
        ("purpose", pa.string()),
        ("tokens", pa.int32()),
    ]
)


def write_demonstrations(
    rows: Iterable[Parsed],
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    *,
    limits: TokenLimits,
    shares: Shares,
    choose: Choice = "better",
    progress: Callable[[int], object] = lambda _rows: None,
) -> SetReport:
    """Write demonstrations for `learner.supervised.sft.Demonstrations`: of each pair the response that `choose` names.

    Of single labelled responses the safe ones are demonstrations. Prompts kept for calibration, selection or the certificate
    are left out; those of the hold-out are marked.

    Args:
        progress: called with the number of rows read, after every 2,048 of them.

    Raises:
        DataError: no row of the source can be used, or the file cannot be written.
    """

    def make(record: Record, name: str) -> list[Made]:
        purpose = _purpose(record.prompt, shares, (TRAIN, HOLDOUT))
        texts = shown_responses(record, choose)
        prompt = prompt_tokens(tokenizer, record.prompt, limits, name)
        made_rows = []
        for text in texts:
            tokens = with_response(tokenizer, prompt, text, limits, name)
            columns = {"input_ids": _ids(tokens), "prompt_length": len(prompt), "holdout": purpose == HOLDOUT}
            made_rows.append(Made(columns, purpose, record.prompt, len(tokens.ids), int(tokens.cut)))
        return made_rows

    return write_set(rows, path, DEMONSTRATIONS, shares.by, make, progress)


def write_reward_pairs(
    rows: Iterable[Parsed],
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    *,
    limits: TokenLimits,
    shares: Shares,
    ranking: Ranking = "better",
    progress: Callable[[int], object] = lambda _rows: None,
) -> SetReport:
    """Write pairs for a reward model (`learner.supervised.preference.Pairs`), ranked by `ranking`; ``safer`` gives a harmlessness score.

    ``half`` parts the prompts in two, for models that train on one half each. ``turns`` counts the user turns of the whole
    prompt, those that were cut off included; `learner.supervised.score_models.baselines` asks for it.

    Raises:
        DataError: as `write_demonstrations`.
    """

    def make(record: Record, name: str) -> list[Made]:
        pair = pair_of(record)
        winner = pair.better if ranking == "better" else pair.safer
        if winner is None:
            raise UnusableRow("unranked", f"prompt {name}: the pair has no label '{ranking}'")
        purpose = _purpose(pair.prompt, shares, _PAIR_SPLITS)
        made_row = _sides(tokenizer, pair, winner, limits, name, purpose)
        made_row.columns.update(split=purpose, half=half_of(pair.prompt, shares.by))
        return [made_row]

    return write_set(rows, path, REWARD_PAIRS, shares.by, make, progress)


def write_cost_pairs(
    rows: Iterable[Parsed],
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    *,
    limits: TokenLimits,
    shares: Shares,
    categories: Collection[str] = (),
    progress: Callable[[int], object] = lambda _rows: None,
) -> SetReport:
    """Write pairs for a cost model (`learner.supervised.preference.Pairs`), "better" being the safer response.

    A response without a safety label has sign 0: its term is left out of the loss. So HH-RLHF's pairs, which have none, are
    ranked and nothing else. A pair is ranked by ``safer``, or else by two different safety labels, and has rank weight 0
    where both are missing. With `categories` only those count as unsafe, and a pair is ranked where its two signs differ.
    A pair whose unsafe response is ranked safer than a safe one is left out of training alone: hold-out and calibration keep
    it, or their figures would be those of cleaner data than the annotators gave.

    Raises:
        DataError: as `write_demonstrations`.
    """

    def make(record: Record, name: str) -> list[Made]:
        pair = pair_of(record)
        purpose = _purpose(pair.prompt, shares, _PAIR_SPLITS)
        safer, signs, weight = safety_order(pair, categories, keep_contradictory=purpose != TRAIN)
        made_row = _sides(tokenizer, pair, safer, limits, name, purpose)
        made_row.columns.update(
            safer_sign=signs[safer], less_safe_sign=signs[1 - safer], rank_weight=weight, split=purpose
        )
        return [made_row]

    return write_set(rows, path, COST_PAIRS, shares.by, make, progress)


def write_prompts(
    rows: Iterable[Parsed],
    tokenizer: PreTrainedTokenizerBase,
    path: Path,
    *,
    limits: TokenLimits,
    shares: Shares,
    progress: Callable[[int], object] = lambda _rows: None,
) -> SetReport:
    """Write every different prompt once, with its purpose and its number of tokens, cut to `limits`.

    Memory grows by some hundred bytes for every different prompt.

    Raises:
        DataError: as `write_demonstrations`.
    """
    prompt_keys: set[int] = set()
    names: set[str] = set()

    def make(record: Record, name: str) -> list[Made]:
        key = prompt_key(record.prompt)
        if key in prompt_keys:
            raise UnusableRow("repeated_prompt", f"prompt {name}: an earlier row has the same prompt")
        prompt_id = record.prompt_id if isinstance(record, PromptOnly) else None
        identity = prompt_id or f"{key:016x}"
        if identity in names:
            raise UnusableRow("repeated_id", f"prompt {name}: an earlier, other prompt has the same id")
        tokens = len(prompt_tokens(tokenizer, record.prompt, limits, name))
        prompt_keys.add(key)
        names.add(identity)
        purpose = purpose_of(record.prompt, shares)
        columns = {
            "prompt_id": identity,
            "messages": [dict(turn) for turn in record.prompt],
            "tags": list(record.tags),
            "category": record.category if isinstance(record, PromptOnly) else None,
            "purpose": purpose,
            "tokens": tokens,
        }
        return [Made(columns, purpose, record.prompt, sum(len(turn["content"]) for turn in record.prompt))]

    return write_set(rows, path, PROMPTS, shares.by, make, progress)


def _purpose(prompt: Sequence[Message], shares: Shares, allowed: Collection[str]) -> str:
    purpose = purpose_of(prompt, shares)
    if purpose not in allowed:
        raise UnusableRow(f"kept_for_{purpose}", f"the prompt is kept for {purpose}")
    return purpose


def _sides(
    tokenizer: PreTrainedTokenizerBase, pair: PreferencePair, first: int, limits: TokenLimits, name: str, purpose: str
) -> Made:
    """Both sides' columns; response `first` is called better. ``turns`` are the user turns of the prompt before it is cut."""
    prompt = prompt_tokens(tokenizer, pair.prompt, limits, name)
    better, worse = (
        with_response(tokenizer, prompt, pair.responses[index], limits, name) for index in (first, 1 - first)
    )
    if better.ids == worse.ids:
        why = "within the room that is left" if better.cut else "in tokens"
        raise UnusableRow("same_tokens", f"prompt {name}: both responses are the same {why}: they cannot be compared")
    columns = {
        "better_ids": _ids(better),
        "better_prompt_length": better.prompt_length,
        "worse_ids": _ids(worse),
        "worse_prompt_length": worse.prompt_length,
        "turns": min(user_turns(pair.prompt), MOST_TURNS),
    }
    values = len(better.ids) + len(worse.ids)
    return Made(columns, purpose, pair.prompt, values, int(better.cut) + int(worse.cut))


def _ids(tokens: TokenisedResponse) -> np.ndarray:
    return np.asarray(tokens.ids, dtype=np.int32)
