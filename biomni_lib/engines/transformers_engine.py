"""The CPU default: batched decoding over fixed slots, many conversations at once.

Stock `generate` re-reads the whole conversation at each turn and waits for the batch's longest reply. Here a
conversation keeps its slot between turns, or has its cache parked while others write; only new tokens are prefilled, a
finished reply makes room at once, and prompts that were prefilled before (the other samples of a group) are copied.
Greedy and sampled decoding give exact log-probabilities; weights are swapped between two decoding steps.

Not covered: encoder-decoder models, sliding-window attention, more than one device.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import copy
import dataclasses
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, PreTrainedModel

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
from biomni_lib.engines.paged_cache import ATTENTION, PagedCache, Pages
from biomni_lib.engines.sampler import sample
from biomni_lib.errors import EngineError

PREFIXES_KEPT = 128


@dataclasses.dataclass
class _Request:
    prompt: list[int]
    sampling: Sampling
    session: str
    future: Future[Completion]
    rng: np.random.Generator
    ids: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    versions: list[int] = dataclasses.field(default_factory=list)
    tail: str = ""


@dataclasses.dataclass
class _Slot:
    session: str = ""
    cached: list[int] = dataclasses.field(default_factory=list)
    stale: bool = False  # what is cached was computed by older weights, and is to be computed again before use
    request: _Request | None = None
    used_at: int = 0


@dataclasses.dataclass
class _Parked:
    """A silent conversation without a slot; no block where newer weights have made it stale."""

    cached: list[int]
    block: Tensor | None


class TransformersEngine:
    """An `Engine` around a transformers decoder on CPU, in float32.

    Args:
        model: a decoder whose attention goes through transformers' AttentionInterface (Qwen3, Llama, …).
        renderer: its tokenizer's renderer, for stop strings and the end-of-turn token.
        slots: sequences decoded together; more requests wait.
        parked: silent conversations whose cache is put aside when another takes their slot, and put back bit by bit;
            the longest silent are forgotten first, and read anew.
        context: longest sequence, prompt included, in tokens.
        prefill_chunk: tokens prefilled in one forward pass.
        version: policy version of the weights in `model`.
        kv_on_update: what new weights do to open conversations. `keep`: their cached keys and values stay, computed by
            the weights of their time, and generation goes on at once. `recompute`: they are computed again, at once
            for the replies under way and with their next turn for the others.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        renderer: ChatRenderer,
        *,
        slots: int,
        context: int,
        prefill_chunk: int = 128,
        version: int = 0,
        parked: int = 0,
        kv_on_update: KvOnUpdate = "keep",
    ) -> None:
        model.set_attn_implementation(ATTENTION)
        self.model, self.renderer = model.eval(), renderer
        self.context, self.chunk, self.version, self.kv_on_update = context, prefill_chunk, version, kv_on_update
        self._cache = PagedCache(model.config, slots, context)
        self._slots = [_Slot() for _ in range(slots)]
        self._prefixes: collections.OrderedDict[tuple[int, ...], tuple[Tensor, Tensor]] = collections.OrderedDict()
        self._parked: collections.OrderedDict[str, _Parked] = collections.OrderedDict()
        self._parked_max = parked
        self._waiting: collections.deque[_Request] = collections.deque()
        self._commands: collections.deque[tuple[Callable[[], None], Future[None]]] = collections.deque()
        self._wake, self._closed, self._clock = threading.Condition(), False, 0
        self._why_closed = "start a new one"
        self._stats = EngineStats()
        self._thread = threading.Thread(target=self._serve, name="transformers-engine", daemon=True)
        self._thread.start()

    @classmethod
    def load(
        cls,
        model_dir: Path,
        *,
        slots: int,
        context: int,
        prefill_chunk: int = 128,
        parked: int = 0,
        kv_on_update: KvOnUpdate = "keep",
    ) -> TransformersEngine:
        """An engine for a model folder."""
        model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
        renderer = ChatRenderer.load(model_dir)
        sizes = {"slots": slots, "context": context, "prefill_chunk": prefill_chunk, "parked": parked}
        return cls(model, renderer, kv_on_update=kv_on_update, **sizes)

    async def generate(self, prompt_ids: Sequence[int], sampling: Sampling, *, session: str = "") -> Completion:
        """See `Engine.generate`. Raises: EngineError when the prompt leaves no room for a token, or is no prompt."""
        check_prompt(prompt_ids, context=self.context, vocabulary=self.model.config.vocab_size)
        rng = np.random.Generator(np.random.Philox(sampling.seed))
        request = _Request(list(prompt_ids), sampling, session, Future(), rng)
        with self._wake:
            if self._closed:
                raise EngineError(f"the engine is closed; {self._why_closed}")
            self._waiting.append(request)
            self._wake.notify()
        return await asyncio.wrap_future(request.future)

    async def release(self, session: str) -> None:
        """Free the slot that the conversation held."""

        def free() -> None:
            self._parked.pop(session, None)
            for index, slot in enumerate(self._slots):
                if slot.session == session:
                    if slot.request is not None:
                        _fail(
                            slot.request.future, EngineError(f"conversation {session!r} was released while generating")
                        )
                    slot.session, slot.request = "", None
                    self._clear(index)

        with contextlib.suppress(EngineError):  # a closed engine holds nothing
            await self._between_steps(free)

    async def load_weights(self, version: int, source: Path | Mapping[str, Tensor]) -> None:
        """See `Engine.load_weights`; `kv_on_update` says what becomes of the KV cache. Shared prompts are forgotten.

        Raises: EngineError when the weights are not this model's, which then keeps its own; or the engine is closed.
        """
        state = source if isinstance(source, Mapping) else await asyncio.to_thread(_read_weights, source)
        self._check_weights(version, state)

        await self._between_steps(lambda: self._swap(version, state))

    def stats(self) -> EngineStats:
        """See `Engine.stats`."""
        return copy.copy(self._stats)

    async def close(self) -> None:
        """Stop the decoding thread; calls under way raise EngineError."""
        with self._wake:
            self._closed = True
            self._wake.notify()
        await asyncio.to_thread(self._thread.join)

    def _check_weights(self, version: int, state: Mapping[str, Tensor]) -> None:
        own = {name: tensor.shape for name, tensor in self.model.state_dict().items()}
        given = {name: tensor.shape for name, tensor in state.items()}
        tied = getattr(self.model, "all_tied_weights_keys", {}) or {}
        check_weights(version, own, given, tied=tied, kept=self.version)

    async def _between_steps(self, command: Callable[[], None]) -> None:
        done: Future[None] = Future()
        with self._wake:
            if self._closed:
                raise EngineError(f"the engine is closed; {self._why_closed}")
            self._commands.append((command, done))
            self._wake.notify()
        await asyncio.wrap_future(done)

    # Below: the decoding thread.

    def _serve(self) -> None:
        failure: BaseException = EngineError("the engine was closed while generating")
        try:
            with torch.inference_mode():
                while not self._closed:
                    self._run_commands()
                    self._admit()
                    if any(slot.request for slot in self._slots):
                        self._decode_step()
                    else:
                        self._sleep()
        except BaseException as error:  # noqa: BLE001  handed to every caller, who raises it
            failure = error
            self._why_closed = f"it failed: {type(error).__name__}: {error}"
        with self._wake:
            self._closed = True
        for request in [*(slot.request for slot in self._slots if slot.request), *self._waiting]:
            _fail(request.future, failure)
        for _, done in self._commands:
            _fail(done, failure)

    def _sleep(self) -> None:
        began = time.perf_counter()
        with self._wake:
            if not (self._waiting or self._commands or self._closed):
                self._wake.wait()
        self._stats.idle_s += time.perf_counter() - began

    def _run_commands(self) -> None:
        while self._commands:
            command, done = self._commands.popleft()
            awaited = done.set_running_or_notify_cancel()  # a command whose caller was cancelled is still carried out
            try:
                command()
            except Exception as error:
                if not awaited:
                    raise
                done.set_exception(error)
            else:
                if awaited:
                    done.set_result(None)

    def _swap(self, version: int, state: Mapping[str, Tensor]) -> None:
        began = time.perf_counter()
        self.model.load_state_dict(state, strict=False)
        self._prefixes.clear()
        self.version = version
        self._stats.swaps += 1
        self._stats.swap_s += time.perf_counter() - began
        if self.kv_on_update == "recompute":
            for index, slot in enumerate(self._slots):
                slot.stale = bool(slot.cached)
                if slot.stale and slot.request is not None:
                    self._recompute(index)
            for parked in self._parked.values():
                parked.block = None

    def _recompute(self, index: int) -> None:
        """Read what a slot has cached again, with the weights of now."""
        slot, began = self._slots[index], time.perf_counter()
        tokens = slot.cached
        self._clear(index)
        self._read(index, tokens)
        self._stats.recomputed_tokens += len(tokens)
        self._stats.recompute_s += time.perf_counter() - began

    def _admit(self) -> None:
        while self._waiting:
            request = self._waiting[0]
            if request.future.cancelled():
                self._waiting.popleft()
                continue
            slot = self._find_slot(request)
            if slot is None:
                return
            self._waiting.popleft()
            self._clock += 1
            self._slots[slot].used_at = self._clock
            self._slots[slot].request = request
            if self._slots[slot].stale:
                self._recompute(slot)
            began = time.perf_counter()
            logits = self._read(slot, request.prompt)
            self._stats.prefill_s += time.perf_counter() - began
            self._take_samples(logits[None], [slot])

    def _find_slot(self, request: _Request) -> int | None:
        """The conversation's own slot, else a free one, else the one of the longest-silent conversation."""
        idle = [i for i, slot in enumerate(self._slots) if slot.request is None]
        own = [i for i in idle if request.session and self._slots[i].session == request.session]
        free = [i for i in idle if not self._slots[i].session]
        found = own or free or sorted(idle, key=lambda i: self._slots[i].used_at)
        if not found:
            return None
        slot = self._slots[found[0]]
        if not own:
            self._park(found[0])
            self._put_back(found[0], request.session)
        extends = len(slot.cached) < len(request.prompt) and request.prompt[: len(slot.cached)] == slot.cached
        if not extends:
            self._clear(found[0])
        slot.session = request.session
        return found[0]

    def _park(self, index: int) -> None:
        """Put aside what a slot holds of a silent conversation."""
        slot = self._slots[index]
        if slot.session and slot.cached and self._parked_max:
            block = None if slot.stale else self._cache.read(index, 0, len(slot.cached))
            self._parked[slot.session] = _Parked(slot.cached, block)
            if len(self._parked) > self._parked_max:
                self._parked.popitem(last=False)
        self._clear(index)

    def _clear(self, index: int) -> None:
        """Forget what a slot has cached."""
        self._slots[index].cached, self._slots[index].stale = [], False
        self._cache.free(index)

    def _put_back(self, index: int, session: str) -> None:
        parked, slot = self._parked.pop(session, None), self._slots[index]
        if parked is not None:
            slot.cached, slot.stale = parked.cached, parked.block is None
            if parked.block is not None:
                self._cache.write(index, 0, parked.block)

    def _read(self, index: int, ids: list[int]) -> Tensor:
        """Bring the slot's cache up to `ids`, which extend it; return the logits (vocab,) behind the last of them."""
        slot = self._slots[index]
        logits, fresh = torch.empty(0), not slot.cached
        while len(slot.cached) < len(ids):
            first = len(slot.cached)
            tokens = ids[first : first + self.chunk]
            key = tuple(ids[: first + len(tokens)])
            if fresh and key in self._prefixes:
                logits = self._recall(key, index, first)
                self._stats.cached_tokens += len(tokens)
            else:
                logits = self._prefill_chunk(index, first, tokens)
                self._stats.prefilled_tokens += len(tokens)
                if fresh:
                    self._remember(key, self._cache.read(index, first, len(tokens)), logits)
            slot.cached.extend(tokens)
        return logits

    def _recall(self, key: tuple[int, ...], index: int, first: int) -> Tensor:
        """Copy a span that was prefilled before, by the same steps, so that its bits are the same."""
        self._prefixes.move_to_end(key)
        block, logits = self._prefixes[key]
        self._cache.write(index, first, block)
        return logits

    def _remember(self, key: tuple[int, ...], block: Tensor, logits: Tensor) -> None:
        self._prefixes[key] = (block, logits)
        if len(self._prefixes) > PREFIXES_KEPT:
            self._prefixes.popitem(last=False)

    def _prefill_chunk(self, index: int, first: int, tokens: list[int]) -> Tensor:
        padded = torch.tensor([tokens + [0] * (self.chunk - len(tokens))])
        hidden = self._forward(padded, self._cache.prefill(index, first, len(tokens), self.chunk))
        return self.model.lm_head(hidden[0, len(tokens) - 1])

    def _forward(self, ids: Tensor, pages: Pages) -> Tensor:
        return self.model.model(
            input_ids=ids,
            position_ids=pages.positions,
            attention_mask=pages.mask,
            pages=pages,
            past_key_values=self._cache,
            use_cache=True,
        ).last_hidden_state

    def _decode_step(self) -> None:
        began = time.perf_counter()
        for slot in self._slots:
            if slot.request is not None and slot.request.future.cancelled():
                slot.request = None
        positions = {index: len(slot.cached) for index, slot in enumerate(self._slots) if slot.request is not None}
        if not positions:
            return
        active, ids = list(positions), torch.zeros(len(self._slots), 1, dtype=torch.long)
        for index in active:
            slot = self._slots[index]
            assert slot.request is not None
            ids[index, 0] = slot.request.ids[-1]
            slot.cached.append(slot.request.ids[-1])
        hidden = self._forward(ids, self._cache.decode(positions))
        logits = self.model.lm_head(hidden[:, 0])
        self._take_samples(logits[active], active)
        self._stats.decode_steps += 1
        self._stats.decode_s += time.perf_counter() - began

    def _take_samples(self, logits: Tensor, indexes: list[int]) -> None:
        """Sample one token in each of the slots `indexes`; logits: (len(indexes), vocab)."""
        requests = [request for i in indexes if (request := self._slots[i].request) is not None]
        uniforms = torch.tensor([request.rng.random() for request in requests], dtype=torch.float64)
        ids, logprobs = sample(logits, [request.sampling for request in requests], uniforms)
        self._stats.generated_tokens += len(requests)
        for index, request, token, logprob in zip(indexes, requests, ids.tolist(), logprobs.tolist(), strict=True):
            request.ids.append(token)
            request.logprobs.append(logprob)
            request.versions.append(self.version)
            reason = self._finish_reason(request, token)
            if reason is not None:
                self._finish(index, request, reason)

    def _finish_reason(self, request: _Request, token: int) -> FinishReason | None:
        longest = max((len(stop) for stop in request.sampling.stop), default=0)
        piece = self.renderer.piece(token)
        request.tail = (request.tail + piece)[-(longest + len(piece)) :]
        if token == self.renderer.end_of_turn:
            return "eos"
        if any(stop in request.tail for stop in request.sampling.stop):
            return "stop"
        full = len(request.prompt) + len(request.ids) >= self.context
        return "length" if full or len(request.ids) >= request.sampling.max_tokens else None

    def _finish(self, index: int, request: _Request, reason: FinishReason) -> None:
        self._slots[index].request = None
        if not self._slots[index].session:
            self._clear(index)
        if request.future.set_running_or_notify_cancel():
            request.future.set_result(Completion(request.ids, request.logprobs, request.versions, reason))


def _fail(future: Future[Any], error: BaseException) -> None:
    if not future.done() and future.set_running_or_notify_cancel():
        future.set_exception(error)


def _read_weights(path: Path) -> Mapping[str, Tensor]:
    from safetensors.torch import load_file

    return load_file(path)
