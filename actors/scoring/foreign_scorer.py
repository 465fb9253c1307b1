"""A score model that another run, or another project, trained: with a tokenizer of its own.

Invariant: it reads the same conversation as the policy, in its own tokens, and a finished response ends with its own end
token. Where its tokenizer and template are the policy's, it reads the policy's very tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from actors.scoring.protocol import Conversation, Scored, ScorerFault
from actors.scoring.sources import ForeignModel
from actors.scoring.text import retokenise
from configs.exits import ConfigError, DataError
from learner.data.templates import with_template
from learner.models.modules import length_sorted_batches, pad_right
from learner.models.score_models.folders import load_whole_score_model


class ForeignScorer:
    """Fulfils `SignalScorer` with a model folder.

    Args:
        policy_tokenizer: of the policy whose samples are scored.
        tokens_per_batch: padded tokens of one forward pass.

    Raises:
        ConfigError: its tokenizer has no chat template and none is named, or no end token.
        DataError: the folder holds no score model, or no tokenizer.
    """

    def __init__(
        self,
        source: ForeignModel,
        policy_tokenizer: PreTrainedTokenizerBase,
        device: torch.device,
        tokens_per_batch: int,
    ) -> None:
        self._device, self._tokens_per_batch = device, tokens_per_batch
        self._tokenizer = load_scorer_tokenizer(source.folder, source.template)
        self._model = load_whole_score_model(source.folder, torch.float32, device)
        self._vocabulary = self._model.vocabulary_size
        self.needs_text = not same_tokens(self._tokenizer, policy_tokenizer)
        """Whether conversations must be read back into text for it."""

    def score(self, batch: Sequence[Conversation]) -> Scored:
        """As `SignalScorer.score`; a conversation that its tokenizer does not take has a fault."""
        values = np.full(len(batch), np.nan, dtype=np.float32)
        faults: dict[str, str] = {}
        kinds: dict[str, str] = {}
        rows: list[np.ndarray] = []
        taken_rows: list[int] = []
        for index, conversation in enumerate(batch):
            try:
                rows.append(self._ids(conversation))
                taken_rows.append(index)
            except DataError as error:
                faults[conversation.request_id] = f"{ScorerFault.REFUSED}: {error}"
                kinds[conversation.request_id] = ScorerFault.REFUSED
        places = np.array(taken_rows, dtype=np.int64)
        for part in length_sorted_batches([len(row) for row in rows], self._tokens_per_batch):
            ids, lengths = (tensor.to(self._device) for tensor in pad_right([rows[index] for index in part], pad_id=0))
            values[places[part]], _ = self._model.score(ids, lengths)
        for index in taken_rows:
            if not np.isfinite(values[index]):
                request = batch[index].request_id
                faults[request] = f"{ScorerFault.NOT_FINITE}: the model's score is {values[index]}"
                kinds[request] = ScorerFault.NOT_FINITE
                values[index] = np.nan
        return Scored(values, faults, kinds)

    def close(self) -> None:
        """Nothing of it outlives its last reference."""

    def _ids(self, conversation: Conversation) -> np.ndarray:
        if self.needs_text:
            return np.array(retokenise(conversation, self._tokenizer), dtype=np.int64)
        ids = conversation.token_ids.astype(np.int64)
        if len(ids) > self._tokenizer.model_max_length:
            raise DataError(f"{len(ids)} tokens are more than the scorer's {self._tokenizer.model_max_length}")
        if ids.max() >= self._vocabulary:
            raise DataError(f"the scorer has no token {ids.max()}")
        return ids


def load_scorer_tokenizer(folder: Path, template: str | None) -> PreTrainedTokenizerBase:
    """The tokenizer of a scorer's folder with its chat template; `model_max_length` is at most the model's positions.

    Its pad token is not asked for: batches are padded by their lengths.

    Raises:
        ConfigError: no chat template, or no end token.
        DataError: the folder holds no tokenizer.
    """
    if not any((folder / name).is_file() for name in ("tokenizer_config.json", "tokenizer.json")):
        raise DataError(f"{folder} holds no tokenizer (no tokenizer_config.json): give a Hugging Face model folder")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        reason = " ".join(str(error).split())[:200]
        raise DataError(
            f"{folder}: its tokenizer cannot be loaded ({reason}): save it with this transformers"
        ) from error
    tokenizer = with_template(tokenizer, template)
    if tokenizer.eos_token_id is None:
        raise ConfigError(
            "the scorer's tokenizer has no end token, so a finished response cannot be told from a cut one: "
            "wrap the model in a Python function"
        )
    config = AutoConfig.from_pretrained(str(folder), local_files_only=True)
    positions = getattr(config, "max_position_embeddings", None)
    if positions is not None:
        tokenizer.model_max_length = min(tokenizer.model_max_length, int(positions))
    return tokenizer


def same_tokens(first: PreTrainedTokenizerBase, second: PreTrainedTokenizerBase) -> bool:
    """Whether `first` and `second` write every conversation in the same tokens, as far as their files can say."""
    if (first.eos_token_id, first.chat_template) != (second.eos_token_id, second.chat_template):
        return False
    texts = [tokenizer.backend_tokenizer.to_str() for tokenizer in (first, second) if tokenizer.is_fast]
    return len(texts) == 2 and texts[0] == texts[1]
