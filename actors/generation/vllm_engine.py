"""One vLLM engine in this process, driven step by step: requests in, finished samples out, weights exchanged in between.

Import of vLLM takes seconds, so it happens when an engine is built. Not thread-safe: one caller at a time.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from configs.exits import DataError
from configs.schema.resources import GeneratorSettings
from learner.engine.transport.gloo import StoreAddress
from learner.engine.transport.plan import BucketPlan, TransportError, check_against, folder_shapes
from learner.model_files.remote_code import is_allowed
from learner.models.families import drawable_tokens
from learner.records import GenerationRequest, RolloutMeta

PREFILL_TOKENS = 8192
"""Prompt tokens of one engine step at least; prompts beyond wait for the next step, whole."""

NEVER = -100.0
"""Added to the logit of an id that no token has, the least that vLLM takes: e^-100 is 0 next to any float32 probability."""


class RequestRefused(DataError):
    """A request the engine cannot serve; nothing of its call was started and the engine lives on."""


class Engine:
    """vLLM with the weights of a Hugging Face folder.

    Args:
        name: of the actor, stamped on samples and in errors.
        model_path: the folder; its parameter names and shapes are what later updates must bring.
        end_token_id: where a response ends.
        max_length: prompt and response together, in tokens.
        weight_version: of the folder's weights.
        deterministic: the same calls draw the same samples, bit for bit.
    """

    def __init__(
        self,
        name: str,
        model_path: Path,
        settings: GeneratorSettings,
        *,
        end_token_id: int,
        max_length: int,
        weight_version: int,
        deterministic: bool = False,
    ) -> None:
        from vllm import EngineArgs, LLMEngine
        from vllm.config.weight_transfer import WeightTransferConfig

        from actors.generation import weight_receiver as receiver

        self._name, self._settings, self._max_length, self._end_token_id = name, settings, max_length, end_token_id
        folder_shapes(model_path)  # a folder without weights is said before vLLM is started on it
        on_gpu = settings.gpus > 0
        arguments = EngineArgs(
            model=str(model_path),
            dtype=settings.dtype,
            max_model_len=max_length,
            max_num_seqs=settings.max_concurrent,
            kv_cache_memory_bytes=settings.kv_cache_bytes,
            enforce_eager=not on_gpu,
            seed=0,
            # Log-probs after the temperature: what PPO calls behaviour.
            logprobs_mode="processed_logprobs",
            generation_config="vllm",
            # Token ids in, token ids out: the engine needs no tokenizer.
            skip_tokenizer_init=True,
            disable_log_stats=not settings.engine_metrics,
            # A prompt split over two steps breaks the CPU sampler of a request with its own seed: vLLM 0.32's
            # _bookkeeping_sync rewinds the generator by set_offset, which CPU generators lack.
            enable_chunked_prefill=False,
            max_num_batched_tokens=max(PREFILL_TOKENS, max_length),
            enable_prefix_caching=on_gpu,
            # Asynchronous scheduling lets timing choose who is batched with whom.
            async_scheduling=not deterministic and on_gpu,
            worker_extension_cls=f"{receiver.__name__}.{receiver.ReceiverExtension.__name__}",
            weight_transfer_config=WeightTransferConfig(backend=receiver.BACKEND),
            trust_remote_code=is_allowed(),
            enable_sleep_mode=settings.sleep and on_gpu,
        )
        self._engine: Any = LLMEngine.from_engine_args(arguments, stat_loggers=_stat_loggers(settings))
        config = self._engine.model_config.hf_config
        self._tied = bool(config.tie_word_embeddings)
        self._expected = self._loaded_from(model_path)
        self._engine.set_weight_version(str(weight_version))
        self._vocabulary_size = int(self._engine.model_config.get_vocab_size())
        drawable = drawable_tokens(config)
        self._never_drawn = dict.fromkeys(range(drawable or self._vocabulary_size, self._vocabulary_size), NEVER)
        self._calls = 0
        self._can_sleep, self._asleep = settings.sleep and on_gpu, frozenset[str]()

    @property
    def weight_version(self) -> int:
        """Of the weights that the next sample is drawn with."""
        return int(self._engine.get_weight_version())

    @property
    def parameter_names(self) -> tuple[str, ...]:
        """What an update must bring."""
        return tuple(sorted(self._expected))

    # --- samples -----------------------------------------------------------------------------------------------------

    def check(self, request: GenerationRequest) -> None:
        """Refuse what cannot be served.

        Raises:
            RequestRefused: empty or too long a prompt, an unknown token, or no token to draw.
        """
        prompt, response_limit = request.prompt_token_ids, request.sampling.max_response_tokens
        subject = f"{self._name}: request {request.request_id} (prompt {request.prompt_id})"
        if not prompt:
            raise RequestRefused(f"{subject} has an empty prompt")
        if len(prompt) + response_limit > self._max_length:
            raise RequestRefused(
                f"{subject}: {len(prompt)} prompt tokens and up to {response_limit} response tokens exceed max_length {self._max_length}: "
                "shorten the prompt, lower max_response_tokens or raise model.max_length"
            )
        if min(prompt) < 0 or max(prompt) >= self._vocabulary_size:
            raise RequestRefused(
                f"{subject} has a token id outside 0..{self._vocabulary_size - 1}: was another tokenizer used?"
            )

    def generate(self, requests: Sequence[GenerationRequest]) -> Iterator[tuple[RolloutMeta, np.ndarray, np.ndarray]]:
        """Draw all requests together; yields each sample as it finishes.

        Yields:
            (meta, token ids int32 ``[T]`` of prompt and response, behaviour log-probs float32 ``[R]``)
        Raises:
            RequestRefused: before anything was started.
        """
        for request in requests:
            self.check(request)
        self._calls += 1
        by_id = {f"{self._calls}/{index}": request for index, request in enumerate(requests)}
        for engine_id, request in by_id.items():
            self._engine.add_request(engine_id, _tokens(request.prompt_token_ids), self._sampling_params(request))
        try:
            while self._engine.has_unfinished_requests():
                for output in self._engine.step():
                    if output.finished:
                        yield self._sample(by_id.pop(output.request_id), output)
        finally:
            if by_id:  # the caller stopped early, or a step failed
                self._engine.abort_request(list(by_id))

    def _sampling_params(self, request: GenerationRequest) -> Any:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        sampling = request.sampling
        return SamplingParams(
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            top_k=sampling.top_k,
            seed=request.seed,
            max_tokens=sampling.max_response_tokens,
            stop_token_ids=list(sampling.stop_token_ids or (self._end_token_id,)),
            # Only these: vLLM would add every end token of the model's generation_config.json, and "stop" would mean any.
            ignore_eos=True,
            logit_bias=self._never_drawn or None,
            logprobs=0,
            flat_logprobs=True,
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
            skip_clone=True,
        )

    def _sample(self, request: GenerationRequest, output: Any) -> tuple[RolloutMeta, np.ndarray, np.ndarray]:
        drawn = output.outputs[0]
        versions = {span.version for span in drawn.weight_versions or ()}
        if len(versions) != 1:
            raise TransportError(
                f"{self._name}: sample {request.request_id} was drawn by weight versions {sorted(versions)}"
            )
        response = list(drawn.token_ids)
        meta = RolloutMeta(
            request_id=request.request_id,
            prompt_id=request.prompt_id,
            prompt_length=len(request.prompt_token_ids),
            response_length=len(response),
            finish_reason=str(drawn.finish_reason),
            weight_version=int(versions.pop()),
            generator=self._name,
        )
        token_ids = np.asarray([*request.prompt_token_ids, *response], dtype=np.int32)
        return meta, token_ids, np.asarray(drawn.logprobs.logprobs, dtype=np.float32)

    def logprobs(self, sequences: Sequence[Sequence[int]]) -> list[np.ndarray]:
        """Log-probs of given sequences at temperature 1: float32 ``[T-1]`` each, of tokens 1 to the last.

        For the parity check of an update. Sequences must be shorter than `max_length`.
        """
        from vllm import SamplingParams

        self._calls += 1
        ids = [f"{self._calls}/{index}" for index in range(len(sequences))]
        for engine_id, sequence in zip(ids, sequences, strict=True):
            self._engine.add_request(
                engine_id,
                _tokens(sequence),
                SamplingParams(temperature=1.0, max_tokens=1, prompt_logprobs=0, flat_logprobs=True, detokenize=False),
            )
        logprobs_by_id: dict[str, np.ndarray] = {}
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                if output.finished:
                    values = output.prompt_logprobs
                    firsts = [values.logprobs[start] for start in values.start_indices[1:]]
                    logprobs_by_id[output.request_id] = np.asarray(firsts, dtype=np.float32)
        return [logprobs_by_id[engine_id] for engine_id in ids]

    # --- memory ------------------------------------------------------------------------------------------------------

    def sleep(self) -> None:
        """Give the GPU's memory back: weights wait in host memory, the cache is dropped. On a CPU there is nothing to give.

        Level 1, because level 2 forgets buffers that no update brings.
        """
        if self._can_sleep and not self._asleep:
            self._engine.sleep(level=1)
            self._asleep = frozenset(("weights", "kv_cache"))

    def wake(self, part: str) -> None:
        """Take the memory of ``weights`` or ``kv_cache`` again, where it was given back."""
        if part in self._asleep:
            self._engine.wake_up(tags=[part])
            self._asleep -= {part}

    # --- weights -----------------------------------------------------------------------------------------------------

    def _loaded_from(self, folder: Path) -> dict[str, tuple[int, ...]]:
        """Names and shapes in a folder's weight files, without those that vLLM passes over too."""
        passed_over = {"lm_head.weight"} if self._tied else set()
        return {
            name: shape
            for name, shape in folder_shapes(folder).items()
            if name not in passed_over and not name.endswith("rotary_emb.inv_freq")
        }

    def check_plan(self, plan: BucketPlan) -> None:
        """The plan must name exactly the parameters this engine was loaded from. Raises PlanMismatch."""
        check_against(plan, self._expected, dtype=self._settings.dtype, receiver=self._name)

    def join_group(
        self,
        address: StoreAddress,
        *,
        epoch: int,
        rank: int,
        world_size: int,
        plan: BucketPlan,
        timeout_seconds: float,
        own_host: str,
    ) -> None:
        """Join an epoch's weight group.

        Raises:
            PlanMismatch: see `check_plan`. TransportError: not all members came.
        """
        self.check_plan(plan)
        info = {
            "address": address,
            "epoch": epoch,
            "rank": rank,
            "world_size": world_size,
            "plan": plan,
            "timeout_seconds": timeout_seconds,
            "own_host": own_host,
        }
        self._engine.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": info})

    def update_weights(self, version: int, folder: Path | None = None) -> None:
        """Take new weights from the group, or from a folder of the same architecture. After an error, exit the process.

        Raises:
            TransportError: they did not come, or not the right ones.
        """
        if folder is not None and self._loaded_from(folder) != self._expected:
            raise TransportError(
                f"{self._name}: {folder} holds other parameters than the model this engine was started with"
            )
        self._engine.collective_rpc("start_weight_update")
        self._engine.collective_rpc("update_weights", args=({"version": version, "folder": folder},))
        self._engine.collective_rpc("finish_weight_update")
        # Cached keys and values of the old weights would be used for new continuations.
        if not self._engine.reset_prefix_cache():
            raise TransportError(
                f"{self._name}: the prefix cache could not be emptied after the update to version {version}"
            )
        self._engine.set_weight_version(str(version))


def _stat_loggers(settings: GeneratorSettings) -> list[Any] | None:
    """vLLM's metrics as Ray's, in place of vLLM's own endpoint; none where they are not asked for."""
    if not settings.engine_metrics:
        return None
    from vllm.v1.metrics.ray_wrappers import RayPrometheusStatLogger

    return [RayPrometheusStatLogger]


def _tokens(token_ids: Sequence[int]) -> Any:
    from vllm.inputs.engine import tokens_input

    return tokens_input(list(token_ids))
