"""What every engine with token ids promises, held against plain transformers; one engine of each kind serves all tests.

vLLM's run in its own environment: `make test-vllm`. On Ray the engine is the first one in an actor.
"""

import asyncio
import contextlib
import functools
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
import torch
from safetensors.torch import save_file

from biomni_lib.config import load_config
from biomni_lib.engines.base import Completion, Sampling
from biomni_lib.engines.transformers_engine import TransformersEngine
from biomni_lib.errors import EngineError
from biomni_lib.rl.adapter import add_adapter
from biomni_lib.sft.model import save_model
from tests.acting_toy import MODEL, reference_logprobs, renderer, token_ids, tokenizer
from tests.acting_toy import model as toy_model

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]
VLLM = pytest.param("vllm", marks=pytest.mark.vllm)
SIZES = MODEL.model_copy(update={"head_dim": 32})  # the smallest that vLLM's attention on CPU takes
SLOTS, CONTEXT, BLOCK = 4, 512, 32
ADAPTER_RANK = 4
TOLERANCE = {"transformers": 1e-5, "ray": 1e-5, "vllm": 1e-4}


def model(seed: int = 0) -> Any:
    return toy_model(seed, sizes=SIZES)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["transformers", "ray", VLLM])
async def running(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Any]:
    folder = tmp_path_factory.mktemp("engine") / "model"
    save_model(model(), tokenizer(), folder)
    opened = functools.partial(TransformersEngine.load, folder, slots=SLOTS, context=CONTEXT, prefill_chunk=BLOCK)
    if request.param == "vllm":
        from biomni_lib.engines.vllm_engine import VllmEngine

        engine: Any = VllmEngine.load(folder, slots=SLOTS, context=CONTEXT, adapter_rank=ADAPTER_RANK)
    elif request.param == "ray":
        from biomni_lib.engines.ray_engine import start_engines

        request.getfixturevalue("ray_nodes")
        config = load_config("smoke", **{"placement.kind": "ray", "engine.slots": SLOTS})
        engine = start_engines(config, opened, renderer(), heartbeat_s=0.01)
    else:
        engine = opened()
    engine.tolerance = TOLERANCE[request.param]
    yield engine
    await engine.close()


@pytest_asyncio.fixture(loop_scope="module")
async def served(running: Any) -> Any:
    """The engine with the weights of `model()` under a new version."""
    running.kv_on_update = "keep"
    await running.load_weights(running.version + 1, model().state_dict())
    return running


def sampling(seed: int = 0, *, max_tokens: int = 24, temperature: float = 1.0, top_p: float = 1.0) -> Sampling:
    return Sampling(temperature, top_p, max_tokens, (), seed)


def worst(completion: Completion, prompt: list[int], reference: Any, temperature: float = 1.0) -> float:
    expected = reference_logprobs(reference, [*prompt, *completion.ids], temperature)[len(prompt) - 1 :]
    return float((torch.tensor(completion.logprobs, dtype=torch.float64) - expected).abs().max())


async def written(served: Any, tokens: int) -> None:
    """Wait until so many more tokens are written."""
    aim = served.stats().generated_tokens + tokens
    while served.stats().generated_tokens < aim:
        await asyncio.sleep(0.002)


async def test_log_probabilities_equal_a_plain_forward_over_turns_and_weight_swaps(served: Any) -> None:
    ids = token_ids(1, 45)
    for turn in range(4):
        reply = await served.generate(ids, sampling(turn), session="turns")
        assert len(reply.ids) == len(reply.logprobs) == len(reply.policy_versions) > 0
        if turn < 2:  # from here on the cache holds keys of older weights
            assert worst(reply, ids, model()) < served.tolerance
        ids = [*ids, *reply.ids, *token_ids(turn, 40)]
        if turn == 1:
            await served.load_weights(served.version + 1, model(7).state_dict())
    await served.release("turns")
    fresh = token_ids(2, 70)
    assert worst(await served.generate(fresh, sampling()), fresh, model(7)) < served.tolerance


@pytest.mark.parametrize("temperature", [0.3, 0.6, 1.7])
async def test_log_probabilities_are_those_at_the_sampling_temperature(served: Any, temperature: float) -> None:
    prompt = token_ids(3, 20)
    reply = await served.generate(prompt, sampling(temperature=temperature))
    assert worst(reply, prompt, model(), temperature) < served.tolerance


async def test_log_probabilities_are_those_before_top_p_or_none(served: Any) -> None:
    prompt = token_ids(3, 21)
    reply = await served.generate(prompt, sampling(temperature=0.7, top_p=0.5))
    assert len(reply.ids) == len(reply.policy_versions) > 0
    assert reply.logprobs is None or worst(reply, prompt, model(), 0.7) < served.tolerance


async def test_greedy_equals_transformers_generate(served: Any) -> None:
    prompt, reference = token_ids(4, 33), model()
    reply = await served.generate(prompt, sampling(temperature=0, max_tokens=40))
    expected = reference.generate(
        torch.tensor([prompt]), max_new_tokens=40, do_sample=False, eos_token_id=renderer().end_of_turn
    )
    assert list(reply.ids) == expected[0, len(prompt) :].tolist()
    assert worst(reply, prompt, reference) < served.tolerance


async def test_a_seed_repeats_a_draw_and_another_draws_anew(served: Any) -> None:
    prompt = token_ids(5, 40)
    one, again, other = [await served.generate(prompt, sampling(seed)) for seed in (3, 3, 4)]
    assert list(one.ids) == list(again.ids) != list(other.ids)


async def test_more_calls_than_slots_all_end_and_a_shared_prompt_is_read_once(served: Any) -> None:
    prompt, before = token_ids(6, 3 * BLOCK + 1), served.stats()
    replies = await asyncio.gather(*(served.generate(prompt, sampling(s)) for s in range(2 * SLOTS)))
    assert all(worst(reply, prompt, model()) < served.tolerance for reply in replies)
    after = served.stats()
    assert after.generated_tokens - before.generated_tokens == sum(len(reply.ids) for reply in replies)
    assert after.prefilled_tokens - before.prefilled_tokens < 3 * len(prompt)
    assert after.cached_tokens - before.cached_tokens >= (2 * SLOTS - 1) * 3 * BLOCK // 2


async def test_a_turn_reads_little_more_than_what_is_new(served: Any) -> None:
    prompt = token_ids(8, 5 * BLOCK)
    reply = await served.generate(prompt, sampling(), session="new")
    before = served.stats().prefilled_tokens
    await served.generate([*prompt, *reply.ids, *token_ids(9, 5)], sampling(), session="new")
    assert served.stats().prefilled_tokens - before <= 1 + 5 + BLOCK
    await served.release("new")


@pytest.mark.parametrize("length", [1, 2, 7])
async def test_a_stop_string_ends_the_reply_and_keeps_its_last_token_whole(served: Any, length: int) -> None:
    prompt = token_ids(11, 30)
    free = await served.generate(prompt, sampling(max_tokens=60))
    text = renderer().decode(free.ids)
    stop = next(cut for i in range(len(text) // 2, len(text)) if (cut := text[i : i + length]).isascii())
    reply = await served.generate(prompt, Sampling(1.0, 1.0, 60, ("</execute>", stop), 0))
    assert reply.finish_reason == "stop"
    assert list(reply.ids) == list(free.ids)[: len(reply.ids)]
    assert stop in renderer().decode(reply.ids)
    assert stop not in renderer().decode(reply.ids[:-1])


async def test_a_stop_tag_that_is_one_special_token_is_kept(served: Any) -> None:
    (tag,) = renderer().assistant("</execute>")
    prompt, certain = token_ids(12, 10), model()
    with torch.no_grad():  # embeddings are tied: align the tag with whatever the model says last
        hidden = certain.model(torch.tensor([prompt])).last_hidden_state[0, -1]
        certain.model.embed_tokens.weight[tag] = 100 * hidden
    await served.load_weights(served.version + 1, certain.state_dict())
    reply = await served.generate(prompt, Sampling(1.0, 1.0, 20, ("</execute>",), 0))
    assert (list(reply.ids), reply.finish_reason) == ([tag], "stop")


async def test_a_reply_ends_at_its_limit_or_the_contexts(served: Any) -> None:
    prompt = token_ids(12, CONTEXT - 14)
    limited = await served.generate(prompt, sampling(max_tokens=5))
    full = await served.generate(prompt, sampling(max_tokens=500))
    assert (limited.finish_reason, len(limited.ids)) == ("length", 5)
    assert (full.finish_reason, len(full.ids)) == ("length", 14)


async def test_the_end_of_turn_token_ends_a_reply(served: Any) -> None:
    prompt, certain = token_ids(13, 10), model()
    with torch.no_grad():
        hidden = certain.model(torch.tensor([prompt])).last_hidden_state[0, -1]
        certain.model.embed_tokens.weight[renderer().end_of_turn] = 100 * hidden
    await served.load_weights(served.version + 1, certain.state_dict())
    reply = await served.generate(prompt, sampling())
    assert (list(reply.ids), reply.finish_reason) == ([renderer().end_of_turn], "eos")


async def test_cancelling_ends_a_request_and_leaves_the_others_alone(served: Any) -> None:
    prompt = token_ids(14, 30)
    tasks = [asyncio.create_task(served.generate(prompt, sampling(s, max_tokens=450))) for s in range(2 * SLOTS)]
    kept = asyncio.create_task(served.generate(prompt, sampling(5, max_tokens=100)))
    await written(served, 10)
    for task in tasks:
        task.cancel()
    reply = await asyncio.wait_for(kept, 120)
    assert worst(reply, prompt, model()) < served.tolerance
    assert all(isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*tasks, return_exceptions=True))
    await asyncio.sleep(0.3)
    before = served.stats().generated_tokens
    await asyncio.sleep(0.3)
    assert served.stats().generated_tokens == before  # nobody is decoded for nothing


async def test_a_cancelled_release_or_weight_swap_does_not_stop_the_engine(served: Any) -> None:
    prompt, version = token_ids(15, 30), served.version
    busy = asyncio.create_task(served.generate(prompt, sampling(max_tokens=300)))
    await written(served, 5)
    for command in (served.release("x"), served.load_weights(version + 1, model(1).state_dict())):
        task = asyncio.create_task(command)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    reply = await asyncio.wait_for(busy, 120)
    assert len(reply.ids) == 300 or reply.ids[-1] == renderer().end_of_turn  # when the swap came decides which
    while served.version == version:
        await asyncio.sleep(0.01)


async def test_weights_swapped_in_flight_are_recorded_token_by_token(served: Any) -> None:
    first, swaps = served.version, served.stats().swaps
    waits = [
        asyncio.create_task(served.generate(token_ids(n, 20 + n), sampling(n, max_tokens=400), session=f"flight{n}"))
        for n in range(SLOTS)
    ]
    for step in (1, 2, 3):
        await written(served, 40)
        await served.load_weights(first + step, model(step).state_dict())
    for number, reply in enumerate(await asyncio.gather(*waits)):
        versions = list(reply.policy_versions)
        assert len(versions) == len(reply.ids) == len(reply.logprobs)
        assert versions == sorted(versions)
        if len(reply.ids) == 400:
            assert set(versions) == {first, first + 1, first + 2, first + 3}
        assert all(math.isfinite(value) for value in reply.logprobs)
        await served.release(f"flight{number}")
    assert served.version == first + 3
    assert served.stats().swaps == swaps + 3 and served.stats().swap_s > 0


async def swapped_reply(served: Any, prompt: list[int], tokens: int) -> tuple[Completion, int]:
    """A reply during which the weights of `model(1)` come, and the position of the first token that they sampled."""
    wait = asyncio.create_task(served.generate(prompt, sampling(max_tokens=tokens)))
    await written(served, 20)
    await served.load_weights(served.version + 1, model(1).state_dict())
    reply = await wait
    switch = list(reply.policy_versions).index(served.version)
    assert 0 < switch < len(reply.ids) - 1
    return reply, switch


def gap(reply: Completion, switch: int, expected: torch.Tensor) -> float:
    return float((torch.tensor(reply.logprobs[switch:]).double() - expected).abs().max())


async def test_weights_swapped_in_flight_continue_on_the_old_cache(served: Any) -> None:
    """A reply under one swap, token by token: old weights' keys and values stay, new ones are added behind them."""
    prompt, old, new = token_ids(16, 20), model(), model(1)
    reply, switch = await swapped_reply(served, prompt, 200)
    ids = torch.tensor([[*prompt, *reply.ids]])
    with torch.inference_mode():
        read = len(prompt) + switch - 1
        cache = old(ids[:, :read], use_cache=True).past_key_values
        tail = new(ids[:, read:-1], past_key_values=cache, use_cache=True).logits[0].double().log_softmax(-1)
    assert gap(reply, switch, tail.gather(-1, ids[0, read + 1 :, None])[:, 0]) < served.tolerance


@pytest.mark.parametrize("running", ["transformers", VLLM], indirect=True)
async def test_a_recomputed_cache_is_that_of_the_new_weights(served: Any) -> None:
    """Replies under way and a conversation that waits for its tool both go on as if the new weights had read it all."""
    served.kv_on_update = "recompute"
    opening, prompt = token_ids(20, 40), token_ids(16, 70)
    waiting = await served.generate(opening, sampling(1), session="waits")
    reply, switch = await swapped_reply(served, prompt, 200)
    expected = reference_logprobs(model(1), [*prompt, *reply.ids])[len(prompt) - 1 + switch :]
    assert gap(reply, switch, expected) < served.tolerance
    ids = [*opening, *waiting.ids, *token_ids(21, 9)]
    assert worst(await served.generate(ids, sampling(2), session="waits"), ids, model(1)) < served.tolerance
    await served.release("waits")


async def test_weights_from_a_file(served: Any, tmp_path: Path) -> None:
    prompt, version = token_ids(17, 30), served.version + 5
    await served.generate(prompt, sampling())
    weights = {name: tensor for name, tensor in model(3).state_dict().items() if name != "lm_head.weight"}  # tied
    save_file(weights, tmp_path / "w.safetensors")
    await served.load_weights(version, tmp_path / "w.safetensors")
    (tmp_path / "w.safetensors").unlink()  # nobody reads it any more
    reply = await served.generate(prompt, sampling())
    assert set(reply.policy_versions) == {version}
    assert worst(reply, prompt, model(3)) < served.tolerance


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape"])
async def test_weights_of_another_model_are_refused_and_nothing_changes(served: Any, fault: str) -> None:
    prompt, version = token_ids(18, 30), served.version
    state = dict(model(4).state_dict())
    if fault == "missing":
        del state["model.layers.1.mlp.up_proj.weight"]
    elif fault == "unknown":
        state["model.layers.9.mlp.up_proj.weight"] = torch.zeros(2)
    else:
        state["model.norm.weight"] = torch.zeros(SIZES.hidden + 1)
    told = rf"weights of version {version + 1} are not this model's.*model\..*keeps version {version}"
    with pytest.raises(EngineError, match=told):
        await served.load_weights(version + 1, state)
    reply = await served.generate(prompt, sampling())
    assert worst(reply, prompt, model()) < served.tolerance
    assert set(reply.policy_versions) == {version}


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([], "prompt of 0 tokens"),
        ([5] * CONTEXT, f"prompt of {CONTEXT} tokens"),
        ([-1], "token id"),
        ([10**6], "token id"),
    ],
)
async def test_a_prompt_that_cannot_be_read_is_refused_and_the_engine_lives(
    served: Any, prompt: list[int], message: str
) -> None:
    with pytest.raises(EngineError, match=message):
        await served.generate(prompt, sampling())
    assert len((await served.generate(token_ids(1, 9), sampling(max_tokens=3))).ids) == 3


def save_adapter(folder: Path, seed: int, *, rank: int = ADAPTER_RANK) -> Any:
    """Save an adapter that changes what is said. Returns: the model that has it."""
    plain = model()
    wrapped = add_adapter(plain, rank=rank, alpha=16, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, tensor in plain.named_parameters():
            if "lora_B" in name:
                tensor.copy_(torch.randn(tensor.shape, generator=generator) / 4)
    wrapped.save_pretrained(folder)
    return plain.eval()


@pytest.mark.parametrize("running", [VLLM], indirect=True)
async def test_adapters_are_swapped_in_flight_too(served: Any, tmp_path: Path) -> None:
    """Each version in a folder that is gone once it is loaded; then all weights again, without an adapter."""
    prompt, first = token_ids(30, 50), served.version
    adapted = [save_adapter(tmp_path / str(seed), seed) for seed in (1, 2)]
    without = asyncio.create_task(served.generate(prompt, sampling(max_tokens=100)))
    await written(served, 5)
    with pytest.raises(EngineError, match="requests under way"):
        await served.load_weights(first + 1, tmp_path / "1")
    assert set((await without).policy_versions) == {first}
    await served.load_weights(first + 1, tmp_path / "1")
    (tmp_path / "1").rename(tmp_path / "gone")
    reply = await served.generate(prompt, sampling(), session="lora")
    assert worst(reply, prompt, adapted[0]) < served.tolerance < 0.1 < worst(reply, prompt, model())
    wait = asyncio.create_task(served.generate(token_ids(31, 20), sampling(1, max_tokens=300)))
    await written(served, 20)
    await served.load_weights(first + 2, tmp_path / "2")
    assert set((await wait).policy_versions) == {first + 1, first + 2}
    reply = await served.generate(prompt, sampling())
    assert worst(reply, prompt, adapted[1]) < served.tolerance < 0.1 < worst(reply, prompt, adapted[0])
    await served.release("lora")
    await served.load_weights(first + 3, model().state_dict())
    reply = await served.generate(prompt, sampling())
    assert worst(reply, prompt, model()) < served.tolerance


@pytest.mark.parametrize("running", [VLLM], indirect=True)
async def test_an_adapter_of_another_rank_or_none_is_refused(served: Any, tmp_path: Path) -> None:
    save_adapter(tmp_path / "wide", 1, rank=2 * ADAPTER_RANK)
    (tmp_path / "empty").mkdir()
    for folder, message in (("wide", "rank 8.*started for rank 4"), ("empty", "no LoRA adapter")):
        with pytest.raises(EngineError, match=message):
            await served.load_weights(served.version + 1, tmp_path / folder)
    assert worst(await served.generate(token_ids(1, 9), sampling()), token_ids(1, 9), model()) < served.tolerance


async def test_closing_ends_calls_under_way_and_refuses_new_ones(served: Any) -> None:
    """The last test of this file: the engine is gone after it."""
    waits = [
        asyncio.create_task(served.generate(token_ids(n, 9), sampling(n, max_tokens=450))) for n in range(2 * SLOTS)
    ]
    await written(served, 10)
    await served.close()
    results = await asyncio.gather(*waits, return_exceptions=True)
    ended = [r for r in results if not isinstance(r, EngineError)]
    assert all(isinstance(r, Completion) and r.finish_reason == "eos" for r in ended) and len(ended) < SLOTS
    for call in (served.generate([5], sampling()), served.load_weights(1000, model().state_dict())):
        with pytest.raises(EngineError, match="closed"):
            await call
    with contextlib.suppress(EngineError):
        await served.release("x")
