"""Every model's answer to every prompt: from the cache where it was given before, else drawn and kept at once.

An answer's seed depends on the run's seed, the conversation and how often it comes, so the order and the other prompts change
nothing. A prompt that a model cannot be given (too long, a special token in it) has no answer and is counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from actors.judging.judges.cached_endpoint import CachedEndpoint
from actors.judging.judges.chat_endpoint import ChatEndpoint, ChatRequest, EndpointOptions
from actors.judging.judges.response_cache import ResponseCache, cache_key
from actors.judging.responses import Response, response_of
from cluster.evaluation.local import LocalModel, draw, engine_of, ready_model, text_digest
from cluster.evaluation.prompt_sets import PromptSet
from cluster.evaluation.targets import Target
from cluster.evaluation.vllm_answers import VllmAnswers
from cluster.inputs.sampler import Sampler
from cluster.run_folder.digests import stable_seed
from configs.exits import DataError
from learner.records import GenerationRequest, Prompt, SamplingSettings

MOST_UNANSWERED = 0.5
"""Share of prompts without an answer from which on a model's figures would be about something else."""
Progress = Callable[[str, int], object]
"""Told a model's label and how many more of its answers are there."""


@dataclass(frozen=True)
class AskOptions:
    """How every model is asked."""

    temperature: float
    max_tokens: int
    seed: int
    engine: str = "auto"
    template: str | None = None
    keys: Mapping[str, str] = field(default_factory=dict)
    """Key to send, by label of the models at addresses."""
    endpoint: EndpointOptions = field(default_factory=EndpointOptions)


@dataclass
class Answered:
    """What came of it."""

    responses: list[Response] = field(default_factory=list)
    unanswered: dict[str, Counter[str]] = field(default_factory=dict)
    """By model, prompts without an answer by reason."""
    asked: dict[str, int] = field(default_factory=dict)
    """By model, answers that were not in the cache."""
    digests: dict[str, str] = field(default_factory=dict)
    """Of local models; of an address its model's id."""


def answer_all(
    targets: Sequence[Target],
    sets: Sequence[PromptSet],
    options: AskOptions,
    cache: ResponseCache,
    *,
    scratch: Path,
    progress: Progress = lambda label, count: None,
) -> Answered:
    """Ask every model every prompt.

    Raises:
        DataError: more than `MOST_UNANSWERED` of a model's prompts have no answer; or as the engines and `ChatEndpoint`.
    """
    answered = Answered()
    # Addresses first: whether they answer is known in a moment, and an engine takes a minute.
    endpoints = {
        target.label: ChatEndpoint(
            target.source, target.model_id, key=options.keys.get(target.label), options=options.endpoint
        )
        for target in targets
        if target.kind == "url"
    }
    engine = engine_of(options.engine) if len(endpoints) < len(targets) else ""
    with VllmAnswers(scratch) as vllm:
        for target in targets:
            if target.kind == "url":
                texts = _from_endpoint(target, endpoints[target.label], sets, options, cache, answered, progress)
            else:
                with ready_model(target, options.template, scratch) as model:
                    texts = _from_local(target, model, engine, vllm, sets, options, cache, answered, progress)
            _collect(target, texts, sets, answered)
    for endpoint in endpoints.values():
        endpoint.close()
    return answered


Texts = Mapping[str, tuple[str, str, int | None]]
"""Prompt id to text, finish reason and tokens."""


def _from_endpoint(
    target: Target,
    endpoint: ChatEndpoint,
    sets: Sequence[PromptSet],
    options: AskOptions,
    cache: ResponseCache,
    answered: Answered,
    progress: Progress,
) -> Texts:
    prompts = [prompt for prompt_set in sets for prompt in prompt_set.prompts]
    requests = [
        ChatRequest(prompt.messages, options.max_tokens, options.temperature, seed)
        for prompt, seed in zip(prompts, _seeds(prompts, options.seed), strict=True)
    ]
    before = cache.misses
    replies = CachedEndpoint(endpoint, cache).ask_all(requests, lambda count: progress(target.label, count))
    answered.asked[target.label], answered.digests[target.label] = cache.misses - before, endpoint.model
    reasons = answered.unanswered.setdefault(target.label, Counter())
    reasons.update(reply.fault for reply in replies if reply.fault is not None)
    return {
        prompt.prompt_id: (reply.text, reply.finish_reason, reply.tokens)
        for prompt, reply in zip(prompts, replies, strict=True)
        if reply.fault is None
    }


def _from_local(
    target: Target,
    model: LocalModel,
    engine: str,
    vllm: VllmAnswers,
    sets: Sequence[PromptSet],
    options: AskOptions,
    cache: ResponseCache,
    answered: Answered,
    progress: Progress,
) -> Texts:
    prompts = [prompt for prompt_set in sets for prompt in prompt_set.prompts]
    reasons = answered.unanswered.setdefault(target.label, Counter())
    answered.digests[target.label] = model.digest
    room = model.positions - options.max_tokens
    if room < 1:
        raise DataError(
            f"{target.label}: --max-tokens {options.max_tokens} leaves no room in its {model.positions} positions"
        )
    sampler = Sampler(model.folder, options.seed, "eval", max_prompt_tokens=room)
    sampling = SamplingSettings(options.temperature, options.max_tokens)
    texts: dict[str, tuple[str, str, int | None]] = {}
    missing: dict[str, tuple[str, GenerationRequest]] = {}
    for prompt, seed in zip(prompts, _seeds(prompts, options.seed), strict=True):
        key = cache_key(
            {
                "model": model.digest,
                "engine": engine,
                "messages": [dict(turn) for turn in prompt.messages],
                "temperature": options.temperature,
                "max_tokens": options.max_tokens,
                "seed": seed,
                "positions": model.positions,
            }
        )
        if (cached := cache.get(key)) is not None:
            texts[prompt.prompt_id] = (cached["text"], cached["finish_reason"], cached["tokens"])
            continue
        try:
            tokens = sampler.token_ids(prompt)
        except DataError as error:
            reasons[str(error)] += 1
            continue
        missing[prompt.prompt_id] = key, GenerationRequest(prompt.prompt_id, prompt.prompt_id, tokens, seed, sampling)
    progress(target.label, len(prompts) - len(missing))
    answered.asked[target.label] = len(missing)
    if missing:
        for drawn in draw(model, [request for _, request in missing.values()], engine, vllm.draw):
            value = {"text": drawn.text, "finish_reason": drawn.finish_reason, "tokens": drawn.tokens}
            cache.put(missing[drawn.request_id][0], value)
            texts[drawn.request_id] = (drawn.text, drawn.finish_reason, drawn.tokens)
            progress(target.label, 1)
    return texts


def _collect(target: Target, texts: Texts, sets: Sequence[PromptSet], answered: Answered) -> None:
    total = sum(len(prompt_set.prompts) for prompt_set in sets)
    if total - len(texts) > MOST_UNANSWERED * total:
        reason = answered.unanswered[target.label].most_common(1)
        why = f"; most often: {reason[0][0]}" if reason else ""
        raise DataError(f"{target.label}: {total - len(texts)} of {total} prompts have no answer{why}")
    answered.responses += [
        response_of(target.label, prompt_set.name, prompt, *texts[prompt.prompt_id])
        for prompt_set in sets
        for prompt in prompt_set.prompts
        if prompt.prompt_id in texts
    ]


def _seeds(prompts: Sequence[Prompt], seed: int) -> list[int]:
    """A seed per prompt; the same conversation twice gets two."""
    times: Counter[str] = Counter()
    seeds = []
    for prompt in prompts:
        conversation = text_digest(*(f"{turn['role']}\n{turn['content']}" for turn in prompt.messages))
        seeds.append(stable_seed(seed, "eval", conversation, times[conversation]))
        times[conversation] += 1
    return seeds
