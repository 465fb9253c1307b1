"""A byte-level BPE tokenizer, trained on a stream of texts: any text goes in, and comes back as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from tokenizers import AddedToken, Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from configs.exits import ConfigError, DataError
from learner.data.templates import Template, named_template
from learner.data.tokenizer import BOS, EOS, PAD, UNK

_BYTES = 256
_BATCH = 1000
"""Texts that are handed over at once."""


def train_byte_level_bpe(
    texts: Iterable[str], *, vocab_size: int, max_length: int, template: str
) -> PreTrainedTokenizerFast:
    """Train a tokenizer of at most `vocab_size` tokens; the same texts, in whatever order, give the same one.

    Words are cut as GPT-2's are (Radford et al. 2019). Ids: pad, unknown, begin and end token first, then the template's
    special tokens, the 256 bytes, what was merged, and the template's markers. Texts are read once and not kept; memory
    grows with the number of different words.

    Args:
        texts: one turn or answer each; half of a surrogate pair is read as a question mark.
        vocab_size: fewer tokens come out where no pair of tokens is left that occurs twice.
        max_length: positions of the models it is for, in tokens.
        template: of `learner.data.templates.TEMPLATES`.

    Raises:
        ConfigError: no such template, or no room for the bytes and the special tokens.
        DataError: there is no text.
    """
    form = named_template(template)
    specials = _special_tokens(form)
    smallest_size = len(specials) + _BYTES + len(form.markers)
    if vocab_size < smallest_size:
        raise ConfigError(
            f"a vocabulary of {vocab_size} has no room for bytes and special tokens: give at least {smallest_size}"
        )
    if max_length < 1:
        raise ConfigError(f"a model of {max_length} positions cannot be: give at least 1")
    inner = Tokenizer(BPE(unk_token=UNK))
    inner.pre_tokenizer = ByteLevel(add_prefix_space=False)
    inner.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=vocab_size - len(form.markers),
        min_frequency=2,
        show_progress=False,
        special_tokens=specials,
        initial_alphabet=ByteLevel.alphabet(),
    )
    corpus = _Texts(texts)
    inner.train_from_iterator(corpus.batches(), trainer)
    if not corpus.characters:
        raise DataError("the tokenizer has no text to be trained on: give it a source with at least one good row")
    inner.add_tokens([AddedToken(marker, normalized=False) for marker in form.markers])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token=PAD,
        unk_token=UNK,
        bos_token=BOS,
        eos_token=form.end or EOS,
        additional_special_tokens=[token for token in form.specials if token != form.end],
        chat_template=form.jinja,
        model_max_length=max_length,
        padding_side="right",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )


def _special_tokens(form: Template) -> list[str]:
    specials = [PAD, UNK, BOS, *([] if form.end else [EOS])]
    return [*specials, *form.specials]


class _Texts:
    """Hands texts on in batches and counts their characters."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = texts
        self.characters = 0

    def batches(self) -> Iterator[list[str]]:
        batch: list[str] = []
        for text in self._texts:
            self.characters += len(text)
            # Half of a surrogate pair has no bytes to learn from.
            batch.append(text if text.isascii() else text.encode("utf-8", errors="replace").decode("utf-8"))
            if len(batch) >= _BATCH:
                yield batch
                batch = []
        yield batch
