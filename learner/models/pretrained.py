"""Makes a pretrained model ready for a run: checked, with chat template, end and pad token, in a folder of the run's own.

The weights are linked or copied as files, never loaded, except where the embedding has no row left for a pad token. A plain
Hugging Face folder comes out, from which SFT, score models, learner and generators start as from one of our own.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError
from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import logging as transformers_logging

from configs.exits import ConfigError, DataError
from configs.schema.supervised import ModelSettings
from learner.data.templates import with_template
from learner.data.tokenizer import check_pad_token
from learner.model_files.hub import FoundModel, find_model
from learner.model_files.pad_token import choose_pad_token, end_of_turn
from learner.model_files.remote_code import check_model_type, read_config_document
from learner.model_files.weight_files import check_tied, check_weights, folder_sha256, weight_files
from learner.models.chat_templates import check_answers_place, freeze_date, one_template
from learner.models.families import DRAWABLE, FAMILIES


@dataclass(frozen=True)
class PreparedModel:
    """What a run starts from, for its manifest and report."""

    architecture: str
    """Its class in transformers, such as ``Qwen2ForCausalLM``."""
    family: str
    """Of `learner.models.families.FAMILIES`; the model type of any other."""
    parameters: int
    digest: str
    """sha256 (hex) over the prepared folder's files."""
    source: str
    """As the settings named it."""
    revision: str | None
    """The hub's commit; None of a local folder."""
    positions: int
    vocabulary: int
    """Rows of the embedding."""
    end_token: str
    pad_token: str
    changes: tuple[str, ...]
    """What the prepared folder has other than the source, in words."""

    def document(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self) | {"changes": list(self.changes)}


def prepare_model(settings: ModelSettings, target: Path) -> PreparedModel:
    """Check the model of ``model.path`` and write it to `target`, which appears whole or not at all.

    Args:
        settings: with a `path`; `revision`, `template`, `max_length` and `trust_remote_code` are read too.
        target: replaced where it is there.

    Raises:
        ConfigError: ``max_length`` is beyond the positions, no template fits, the name is none, or code would have to run.
        DataError: it cannot be fetched, is a pickle, is no causal language model, or its weights do not fit it.
    """
    if settings.path is None:
        raise ConfigError("model.path is not set: there is no pretrained model to prepare")
    source = find_model(settings.path, settings.revision, key="model.path", with_code=settings.trust_remote_code)
    document, config = _config(source, settings)
    weights = weight_files(source.folder, settings.path)
    check_tied(weights, config, settings.path)
    _check_positions(config, settings)
    parameters = check_weights(weights, config, settings.path, trust_remote_code=settings.trust_remote_code)
    tokenizer, changes = _tokenizer(source, settings)
    rows = int(config.vocab_size)
    pad = choose_pad_token(tokenizer, rows, settings.path)
    changes += pad.changes
    document |= {"pad_token_id": tokenizer.pad_token_id, "eos_token_id": tokenizer.eos_token_id}
    drawable = min(pad.drawable, rows)
    if drawable < rows or pad.rows > rows:
        document[DRAWABLE] = drawable
        changes.append(f"ids from {drawable} on are no token of the tokenizer's and are never drawn")
    check_pad_token(tokenizer)

    target.parent.mkdir(parents=True, exist_ok=True)
    fresh, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    for leftover in (fresh, old):
        shutil.rmtree(leftover, ignore_errors=True)
    fresh.mkdir()
    tokenizer.save_pretrained(str(fresh))
    if settings.trust_remote_code:
        for file in source.folder.glob("*.py"):
            shutil.copyfile(file, fresh / file.name)
    (fresh / "config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    _write_generation_config(source.folder, fresh, document, changes)
    if pad.rows > rows:
        _with_more_rows(source.folder, fresh, pad.rows, drawable, settings.trust_remote_code)
        changes.append(f"the embedding has {pad.rows} rows in place of {rows}")
    else:
        for file in weights.files:
            _link(file, fresh / file.name)
    if target.exists():
        target.rename(old)
    fresh.rename(target)
    shutil.rmtree(old, ignore_errors=True)
    return PreparedModel(
        architecture=str(config.architectures[0]),
        family=FAMILIES.get(config.model_type, str(config.model_type)),
        parameters=parameters,
        digest=folder_sha256(target),
        source=settings.path,
        revision=source.revision,
        positions=_positions(config) or settings.max_length,
        vocabulary=max(rows, pad.rows),
        end_token=str(tokenizer.eos_token),
        pad_token=str(tokenizer.pad_token),
        changes=tuple(changes),
    )


# --- checks -----------------------------------------------------------------------------------------------------------


def _config(source: FoundModel, settings: ModelSettings) -> tuple[dict[str, Any], Any]:
    """``config.json`` as it is, and as transformers reads it."""
    folder, name = source.folder, settings.path
    if (folder / "adapter_config.json").is_file() and not (folder / "config.json").is_file():
        raise DataError(f"{name} holds an adapter, not a model: merge it into its base model and save that")
    document = read_config_document(folder)
    check_model_type(folder, document, allowed=settings.trust_remote_code)
    if "quantization_config" in document:
        raise DataError(f"{name} is quantised and cannot be trained: give the model it was made from")
    try:
        config = AutoConfig.from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=settings.trust_remote_code
        )
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(f"{folder / 'config.json'} is not what its model type needs: {_line(error)}") from error
    classes = config.architectures or ["nothing"]
    if "vision_config" in document or "text_config" in document:
        raise DataError(f"{name} is a model of more than text ({classes[0]}): give its text model, saved alone")
    if not classes[0].endswith(("ForCausalLM", "LMHeadModel")):
        raise DataError(
            f"{name} is a {classes[0]}, no causal language model: give one whose architecture is …ForCausalLM"
        )
    return document, config


def _positions(config: Any) -> int | None:
    """Fixed positions of the model; None of one that has none, such as BLOOM, MPT or Mamba."""
    declared = (getattr(config, name, None) for name in ("max_position_embeddings", "n_positions", "max_seq_len"))
    return next((int(positions) for positions in declared if isinstance(positions, int) and positions > 0), None)


def _check_positions(config: Any, settings: ModelSettings) -> None:
    """`max_length` must be within what the model was made for, and on one side of a change of its positions' scale."""
    positions = _positions(config)
    if positions is not None and settings.max_length > positions:
        raise ConfigError(
            f"model.max_length {settings.max_length} is beyond the {positions} positions of {settings.path}: lower it"
        )
    scaling = getattr(config, "rope_parameters", None) or {}
    original = getattr(config, "original_max_position_embeddings", None) or scaling.get(
        "original_max_position_embeddings"
    )
    # LongRoPE and dynamic scaling go by the length: of each batch in transformers, of max_model_len in vLLM.
    if scaling.get("rope_type") in ("longrope", "dynamic") and original and settings.max_length > original:
        raise ConfigError(
            f"model.max_length {settings.max_length} is beyond the first {original} positions of {settings.path}, where it "
            f"changes its rotation with the length, and engines differ in how: give at most {original}"
        )


# --- tokenizer --------------------------------------------------------------------------------------------------------


def _tokenizer(source: FoundModel, settings: ModelSettings) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """With template and end token; and what was changed."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            str(source.folder), local_files_only=True, trust_remote_code=settings.trust_remote_code
        )
    except (OSError, ValueError, ImportError, KeyError, TypeError) as error:
        raise DataError(f"{settings.path} has no tokenizer that can be read: {_line(error)}") from error
    changes: list[str] = []
    if settings.template is not None:
        changes.append(f"the chat template is '{settings.template}'")
    before = tokenizer.eos_token
    if settings.template is None:
        tokenizer.chat_template = one_template(tokenizer.chat_template, settings.path or "")
    try:
        tokenizer = with_template(tokenizer, settings.template)
        tokenizer.chat_template, frozen = freeze_date(str(tokenizer.chat_template), datetime.now(UTC))
        changes += frozen
        changes += check_answers_place(tokenizer, settings.path or "")
        closing = end_of_turn(tokenizer)
    except TemplateError as error:
        raise ConfigError(
            f"the chat template of {settings.path} cannot write a question and its answer ({_line(error)}): "
            "name another in model.template"
        ) from error
    if closing is not None:
        tokenizer.eos_token = closing
    if tokenizer.eos_token is None:
        raise ConfigError(f"{settings.path} has a tokenizer without an end token: a response could never end")
    if tokenizer.eos_token != before:
        changes.append(
            f"the end token is {tokenizer.eos_token}, which closes the template's turns, in place of {before}"
        )
    tokenizer.model_max_length = settings.max_length
    tokenizer.padding_side = "right"
    return tokenizer, changes


# --- files ------------------------------------------------------------------------------------------------------------


def _write_generation_config(source: Path, target: Path, document: dict[str, Any], changes: list[str]) -> None:
    """Token ids only: sampling is the run's business, and further end tokens would mean other ends than were learned."""
    token_ids = {name: document[name] for name in ("bos_token_id", "eos_token_id", "pad_token_id") if name in document}
    (target / "generation_config.json").write_text(json.dumps(token_ids, indent=2) + "\n", encoding="utf-8")
    if (source / "generation_config.json").is_file():
        changes.append("generation_config.json has the token ids alone")


def _with_more_rows(source: Path, target: Path, rows: int, first: int, trust_remote_code: bool) -> None:
    """Load the model, give its embedding more rows (the mean of those in use; no token reads them), and save it."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        str(source), dtype="auto", local_files_only=True, trust_remote_code=trust_remote_code
    )
    transformers_logging.disable_progress_bar()
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        for layer in {
            id(embedding.weight): embedding
            for embedding in (model.get_input_embeddings(), model.get_output_embeddings())
        }.values():
            layer.weight[first:] = layer.weight[:first].float().mean(dim=0).to(layer.weight.dtype)
    document = json.loads((target / "config.json").read_text()) | {"vocab_size": rows}
    generation = (target / "generation_config.json").read_bytes()
    model.save_pretrained(str(target), safe_serialization=True)
    (target / "config.json").write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    (target / "generation_config.json").write_bytes(generation)


def _link(source: Path, target: Path) -> None:
    """A hard link, or a copy where the two are on different file systems."""
    source = source.resolve()  # the hub's cache holds links
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def _line(error: BaseException) -> str:
    """An error of a library in one short line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]
