"""Answers of local models as text, drawn by plain transformers: where there is no vLLM, and for small sets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from actors.judging.responses import CUT, STOP
from actors.scoring.prompt_reader import decode
from learner.data.tokenizer import load_tokenizer
from learner.models.families import drawable_tokens
from learner.models.modules import load_policy
from learner.records import GenerationRequest


@dataclass(frozen=True)
class Drawn:
    """One answer."""

    request_id: str
    text: str
    """Without the end token; other special tokens are written out."""
    finish_reason: str
    tokens: int
    """With the end token."""


def draw_with_transformers(folder: Path, requests: Sequence[GenerationRequest]) -> Iterator[Drawn]:
    """Draw the answers one after another, each by its own seed, in float32 on a CPU; yields each when it is done.

    Temperature 0 takes the likeliest token each time.

    Raises:
        DataError, ConfigError: the folder holds no model or no tokenizer.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    tokenizer = load_tokenizer(folder)
    model = load_policy(folder, torch.float32 if device.type == "cpu" else torch.bfloat16).to(device)
    drawable = drawable_tokens(model.config) or model.config.vocab_size
    for request in requests:
        sampling = request.sampling
        ends = set(sampling.stop_token_ids) or {tokenizer.eos_token_id}
        generator = torch.Generator().manual_seed(request.seed)
        next_tokens, past, drawn = torch.tensor([request.prompt_token_ids], device=device), None, list[int]()
        with torch.inference_mode():
            while len(drawn) < sampling.max_response_tokens and not (drawn and drawn[-1] in ends):
                output = model(input_ids=next_tokens, past_key_values=past, use_cache=True)
                past = output.past_key_values
                token = _draw(output.logits[0, -1, :drawable].float().cpu(), sampling.temperature, generator)
                drawn.append(token)
                next_tokens = torch.tensor([[token]], device=device)
        finished = drawn[-1] in ends
        text = decode(tokenizer, drawn[:-1] if finished else drawn)
        yield Drawn(request.request_id, text, STOP if finished else CUT, len(drawn))


def _draw(logits: torch.Tensor, temperature: float, generator: torch.Generator) -> int:
    if temperature == 0:
        return int(logits.argmax())
    return int(torch.multinomial(torch.softmax(logits / temperature, dim=-1), 1, generator=generator))
