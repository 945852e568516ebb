"""The engine against plain transformers: same log-probabilities, same greedy tokens, same bits in any company."""

import asyncio
import copy
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3ForCausalLM

from biomni_lib.config import load_config
from biomni_lib.engines.base import Completion, Sampling
from biomni_lib.engines.transformers_engine import TransformersEngine
from biomni_lib.errors import EngineError
from biomni_lib.sft.model import ROPE_THETA, build_model
from tests.acting_toy import MODEL, engine, model, reference_logprobs, renderer, token_ids, tokenizer

TOLERANCE = 1e-5


def sampling(seed: int = 0, *, max_tokens: int = 24, temperature: float = 1.0, top_p: float = 1.0) -> Sampling:
    return Sampling(temperature, top_p, max_tokens, (), seed)


def worst(completion: Completion, prompt: list[int], reference, temperature: float = 1.0) -> float:
    expected = reference_logprobs(reference, [*prompt, *completion.ids], temperature)[len(prompt) - 1 :]
    return float((torch.tensor(completion.logprobs, dtype=torch.float64) - expected).abs().max())


def bits(completion: Completion) -> tuple:
    return tuple(completion.ids), tuple(completion.logprobs), completion.finish_reason


async def conversation(served: TransformersEngine, number: int, *, turns: int = 3, length: int = 50) -> list[tuple]:
    """A few turns with observations between them; the bits of every reply."""
    ids, replies = token_ids(number, length), []
    for turn in range(turns):
        reply = await served.generate(ids, sampling(100 * number + turn, max_tokens=10 + number), session=str(number))
        replies.append(bits(reply))
        ids = [*ids, *reply.ids, *token_ids(1000 + turn, 7 + 5 * turn)]
    await served.release(str(number))
    return replies


async def test_log_probabilities_equal_a_plain_forward_over_turns_and_weight_swaps() -> None:
    served = engine()
    ids = token_ids(1, 45)
    for turn in range(4):
        reply = await served.generate(ids, sampling(turn), session="a")
        if turn < 2:  # from here on the cache holds keys of older weights
            assert worst(reply, ids, model()) < TOLERANCE
        ids = [*ids, *reply.ids, *token_ids(turn, 40)]
        if turn == 1:
            await served.load_weights(1, model(7).state_dict())
    fresh = token_ids(2, 70)
    assert worst(await served.generate(fresh, sampling()), fresh, model(7)) < TOLERANCE
    await served.close()


@pytest.mark.parametrize("temperature", [0.3, 0.6, 1.7])
async def test_log_probabilities_are_those_at_the_sampling_temperature(temperature: float) -> None:
    served, prompt = engine(), token_ids(3, 20)
    reply = await served.generate(prompt, sampling(temperature=temperature, top_p=0.9))
    assert worst(reply, prompt, model(), temperature) < TOLERANCE
    await served.close()


async def test_greedy_equals_transformers_generate() -> None:
    served, prompt, reference = engine(), token_ids(4, 33), model()
    reply = await served.generate(prompt, sampling(temperature=0, max_tokens=40))
    expected = reference.generate(
        torch.tensor([prompt]), max_new_tokens=40, do_sample=False, eos_token_id=renderer().end_of_turn
    )
    assert list(reply.ids) == expected[0, len(prompt) :].tolist()
    assert worst(reply, prompt, reference) < TOLERANCE
    await served.close()


async def test_a_llama_is_served_too() -> None:
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    llama = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer()), num_key_value_heads=2, **sizes)).eval()
    prompt, before = token_ids(5, 40), llama.state_dict()
    served = TransformersEngine(llama, renderer(), slots=2, context=128, prefill_chunk=16)
    reply = await served.generate(prompt, sampling())
    await served.close()
    plain = LlamaForCausalLM(llama.config).eval()
    plain.load_state_dict(before)
    plain.set_attn_implementation("sdpa")
    assert worst(reply, prompt, plain) < TOLERANCE


async def test_log_probabilities_hold_past_the_trained_context_with_yarn() -> None:
    """Trained to 96 positions, stretched four times: the turns go on far beyond."""
    plain = model()
    short = copy.deepcopy(plain.config)
    short.max_position_embeddings = 512
    short.rope_parameters = {
        "rope_type": "yarn",
        "rope_theta": ROPE_THETA,
        "factor": 4.0,
        "original_max_position_embeddings": 96,
    }
    stretched = Qwen3ForCausalLM(short).eval()
    stretched.load_state_dict(plain.state_dict())
    reference = copy.deepcopy(stretched)
    served = TransformersEngine(stretched, renderer(), slots=2, context=384, prefill_chunk=32)
    ids, distant = token_ids(6, 60), []
    for turn in range(4):
        reply = await served.generate(ids, sampling(turn), session="long")
        assert worst(reply, ids, reference) < TOLERANCE
        distant.append(worst(reply, ids, plain))
        ids = [*ids, *reply.ids, *token_ids(turn, 50)]
    await served.close()
    assert len(ids) > 3 * 96
    assert min(distant) > 100 * TOLERANCE  # without the stretching these would be other log-probabilities


async def test_bits_are_the_same_alone_and_among_neighbours() -> None:
    crowd, lonely = engine(slots=6), engine(slots=6)
    together = await asyncio.gather(*(conversation(crowd, n, length=30 + 37 * n) for n in range(6)))
    alone = [await conversation(lonely, n, length=30 + 37 * n) for n in reversed(range(6))]
    assert together == alone[::-1]
    assert len({reply for replies in together for reply in replies}) == 18
    await crowd.close()
    await lonely.close()


@pytest.mark.slow
async def test_bits_are_the_same_at_the_default_size() -> None:
    config = load_config("cpu")
    served = [
        TransformersEngine(build_model(config.model, tokenizer(), 0), renderer(), slots=slots, context=1024)
        for slots in [config.engine.slots] * 2
    ]
    together = await asyncio.gather(*(conversation(served[0], n, length=20 + 13 * n) for n in range(64)))
    for n in (0, 17, 40, 63):
        assert together[n] == await conversation(served[1], n, length=20 + 13 * n)
    for one in served:
        await one.close()


async def test_bits_are_the_same_with_more_calls_than_slots_and_with_shared_prompts() -> None:
    served, prompt = engine(slots=3), token_ids(6, 100)
    replies = await asyncio.gather(*(served.generate(prompt, sampling(seed)) for seed in range(8)))
    assert served.stats().cached_tokens == 7 * 100  # all but the first were copied
    for seed, reply in enumerate(replies):
        other = engine(slots=3)
        assert bits(await other.generate(prompt, sampling(seed))) == bits(reply)
        assert other.stats().cached_tokens == 0
        await other.close()
    await served.close()


async def test_a_turn_reads_only_what_is_new() -> None:
    served, prompt = engine(), token_ids(8, 60)
    reply = await served.generate(prompt, sampling(), session="a")
    longer = [*prompt, *reply.ids, *token_ids(9, 5)]
    await served.generate(longer, sampling(), session="a")
    assert served.stats().prefilled_tokens == 60 + 1 + 5  # the last sampled token was not read yet
    await served.close()


async def test_a_conversation_that_lost_its_slot_or_changed_its_past_is_read_again() -> None:
    served, ids = engine(slots=1), {name: token_ids(n, 40) for n, name in enumerate("ab")}
    for turn in range(3):
        for name in "ab":
            reply = await served.generate(ids[name], sampling(turn), session=name)
            assert worst(reply, ids[name], model()) < TOLERANCE
            ids[name] = [*ids[name], *reply.ids, *token_ids(turn, 3)]
    changed = [*ids["b"][:20], *token_ids(77, 20)]
    assert worst(await served.generate(changed, sampling(), session="b"), changed, model()) < TOLERANCE
    await served.close()


async def test_the_same_prompt_again_in_one_conversation() -> None:
    served, prompt = engine(), token_ids(10, 32)
    first = await served.generate(prompt, sampling(max_tokens=1), session="a")
    again = await served.generate(prompt, sampling(max_tokens=1), session="a")
    assert bits(first) == bits(again)
    await served.close()


@pytest.mark.parametrize("length", [1, 2, 7])
async def test_a_stop_string_ends_the_reply_and_keeps_its_last_token_whole(length: int) -> None:
    served, prompt = engine(), token_ids(11, 30)
    free = await served.generate(prompt, sampling(max_tokens=60))
    text = renderer().decode(free.ids)
    stop = next(cut for i in range(len(text) // 2, len(text)) if (cut := text[i : i + length]).isascii())
    reply = await served.generate(prompt, Sampling(1.0, 1.0, 60, ("</execute>", stop), 0))
    assert reply.finish_reason == "stop"
    assert list(reply.ids) == list(free.ids)[: len(reply.ids)]
    assert stop in renderer().decode(reply.ids)
    assert stop not in renderer().decode(reply.ids[:-1])
    await served.close()


async def test_a_reply_ends_at_its_limit_or_the_contexts() -> None:
    served, prompt = engine(context=64), token_ids(12, 50)
    limited = await served.generate(prompt, sampling(max_tokens=5))
    full = await served.generate(prompt, sampling(max_tokens=500))
    assert (limited.finish_reason, len(limited.ids)) == ("length", 5)
    assert (full.finish_reason, len(full.ids)) == ("length", 64 - 50)
    await served.close()


async def test_the_end_of_turn_token_ends_a_reply() -> None:
    served, prompt = engine(), token_ids(13, 10)
    certain = model()
    with torch.no_grad():  # embeddings are tied: align the end of turn with whatever the model says last
        hidden = certain.model(torch.tensor([prompt])).last_hidden_state[0, -1]
        certain.model.embed_tokens.weight[renderer().end_of_turn] = 100 * hidden
    await served.load_weights(1, certain.state_dict())
    reply = await served.generate(prompt, sampling())
    assert (list(reply.ids), reply.finish_reason) == ([renderer().end_of_turn], "eos")
    await served.close()


async def test_cancelling_frees_the_slot_and_leaves_the_others_alone() -> None:
    served, prompt = engine(slots=2), token_ids(14, 30)
    expected = bits(await served.generate(prompt, sampling(5, max_tokens=200)))
    tasks = [asyncio.create_task(served.generate(prompt, sampling(s, max_tokens=450))) for s in range(6)]
    kept = asyncio.create_task(served.generate(prompt, sampling(5, max_tokens=200)))
    await asyncio.sleep(0.02)
    for task in tasks:
        task.cancel()
    assert bits(await asyncio.wait_for(kept, 20)) == expected
    assert all(isinstance(r, asyncio.CancelledError) for r in await asyncio.gather(*tasks, return_exceptions=True))
    before = served.stats().generated_tokens
    await asyncio.sleep(0.05)
    assert served.stats().generated_tokens == before  # nobody is decoded for nothing
    await served.close()


async def test_a_cancelled_release_or_weight_swap_does_not_stop_the_engine() -> None:
    served, prompt = engine(), token_ids(15, 30)
    busy = asyncio.create_task(served.generate(prompt, sampling(max_tokens=300)))
    await asyncio.sleep(0.01)
    for command in (served.release("x"), served.load_weights(1, model(1).state_dict())):
        task = asyncio.create_task(command)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    reply = await asyncio.wait_for(busy, 20)
    assert len(reply.ids) == 300 or reply.ids[-1] == renderer().end_of_turn  # when the swap came decides which
    await served.close()


async def test_weights_swapped_in_flight_are_recorded_token_by_token() -> None:
    served = engine(slots=4)
    waits = [
        asyncio.create_task(served.generate(token_ids(n, 20 + n), sampling(n, max_tokens=400), session=str(n)))
        for n in range(4)
    ]
    for version in (1, 2, 3):
        seen = served.stats().generated_tokens
        while served.stats().generated_tokens < seen + 40:
            await asyncio.sleep(0.002)
        await served.load_weights(version, model(version).state_dict())
    for reply in await asyncio.gather(*waits):
        versions = list(reply.policy_versions)
        assert len(versions) == len(reply.ids) == len(reply.logprobs)
        assert versions == sorted(versions)
        if len(reply.ids) == 400:
            assert set(versions) == {0, 1, 2, 3}
        assert all(math.isfinite(value) for value in reply.logprobs)
    assert served.version == 3
    await served.close()


async def test_weights_swapped_in_flight_continue_on_the_old_cache() -> None:
    """A reply under one swap, token by token: old weights' keys and values stay, new ones are added behind them."""
    served, prompt = engine(), token_ids(16, 20)
    old, new = model(), model(1)
    wait = asyncio.create_task(served.generate(prompt, sampling(max_tokens=200)))
    while served.stats().generated_tokens < 20:
        await asyncio.sleep(0.001)
    await served.load_weights(1, new.state_dict())
    reply = await wait
    switch = list(reply.policy_versions).index(1)
    ids = torch.tensor([[*prompt, *reply.ids]])
    with torch.inference_mode():
        read = len(prompt) + switch - 1
        cache = old(ids[:, :read], use_cache=True).past_key_values
        tail = new(ids[:, read:-1], past_key_values=cache, use_cache=True).logits[0].double().log_softmax(-1)
    expected = tail.gather(-1, ids[0, read + 1 :, None])[:, 0]
    assert 0 < switch < len(reply.ids) - 1
    assert float((torch.tensor(reply.logprobs[switch:]).double() - expected).abs().max()) < TOLERANCE
    await served.close()


async def talk(served: TransformersEngine, number: int, gate: asyncio.Semaphore) -> list[tuple]:
    """Three turns of one conversation, each when the gate lets it."""
    ids, heard = token_ids(30 + number, 30 + 7 * number), []
    for turn in range(3):
        async with gate:
            reply = await served.generate(ids, sampling(10 * number + turn, max_tokens=12), session=str(number))
        heard.append(bits(reply))
        ids = [*ids, *reply.ids, *token_ids(turn, 9)]
        await asyncio.sleep(0)
    return heard


async def test_a_parked_conversation_goes_on_bit_by_bit() -> None:
    """Five conversations in two slots: as if each had been alone, and nothing but new tokens is read."""
    roomy = engine(slots=2, parked=8)
    together = await asyncio.gather(*(talk(roomy, n, asyncio.Semaphore(5)) for n in range(5)))
    alone, read = [], 0
    for number in range(5):
        single = engine(slots=2)
        alone.append(await talk(single, number, asyncio.Semaphore(1)))
        read += single.stats().prefilled_tokens
        await single.close()
    assert together == alone
    assert roomy.stats().prefilled_tokens == read
    for number in range(5):
        await roomy.release(str(number))
    assert not roomy._parked
    await roomy.close()


async def test_a_parked_conversation_is_recomputed_for_new_weights() -> None:
    served = engine(slots=1, parked=2, kv_on_update="recompute")
    ids = token_ids(40, 50)
    reply = await served.generate(ids, sampling(1, max_tokens=10), session="parked")
    await served.generate(token_ids(41, 30), sampling(2), session="other")
    await served.load_weights(1, model(1).state_dict())
    ids = [*ids, *reply.ids, *token_ids(42, 8)]
    assert worst(await served.generate(ids, sampling(3), session="parked"), ids, model(1)) < TOLERANCE
    assert served.stats().recomputed_tokens == 50 + len(reply.ids) - 1
    await served.close()


async def test_a_recomputed_cache_is_that_of_the_new_weights() -> None:
    """Replies under way and a conversation that waits for its tool both go on as if the new weights had read it all."""
    served, prompt = engine(kv_on_update="recompute"), token_ids(16, 70)
    waiting = await served.generate(token_ids(20, 40), sampling(1), session="waits")
    busy = asyncio.create_task(served.generate(prompt, sampling(max_tokens=200), session="writes"))
    began = served.stats().generated_tokens
    while served.stats().generated_tokens < began + 20:
        await asyncio.sleep(0.001)
    await served.load_weights(1, model(1).state_dict())
    assert served.stats().recomputed_tokens >= 70 + 20 - 1
    reply = await busy
    switch = list(reply.policy_versions).index(1)
    expected = reference_logprobs(model(1), [*prompt, *reply.ids])[len(prompt) - 1 + switch :]
    assert 0 < switch < len(reply.ids) - 1
    assert float((torch.tensor(reply.logprobs[switch:]).double() - expected).abs().max()) < TOLERANCE
    before = served.stats().recomputed_tokens
    ids = [*token_ids(20, 40), *waiting.ids, *token_ids(21, 9)]
    assert worst(await served.generate(ids, sampling(2), session="waits"), ids, model(1)) < TOLERANCE
    assert served.stats().recomputed_tokens - before == len(ids) - 9 - 1  # the last token written was never read
    await served.close()


async def test_a_kept_cache_is_read_by_nobody_again() -> None:
    served, prompt = engine(), token_ids(22, 60)
    reply = await served.generate(prompt, sampling(max_tokens=30), session="a")
    await served.load_weights(1, model(1).state_dict())
    read = served.stats().prefilled_tokens
    await served.generate([*prompt, *reply.ids, *token_ids(23, 5)], sampling(), session="a")
    stats = served.stats()
    assert (stats.swaps, stats.recomputed_tokens, stats.recompute_s) == (1, 0, 0.0)
    assert stats.prefilled_tokens - read == 5 + 1 and stats.swap_s > 0
    await served.close()


async def test_weights_from_a_file(tmp_path: Path) -> None:
    served, prompt = engine(), token_ids(17, 30)
    await served.generate(prompt, sampling())
    weights = {name: tensor for name, tensor in model(3).state_dict().items() if name != "lm_head.weight"}  # tied
    save_file(weights, tmp_path / "w.safetensors")
    await served.load_weights(9, tmp_path / "w.safetensors")
    reply = await served.generate(prompt, sampling())
    assert set(reply.policy_versions) == {9}
    assert worst(reply, prompt, model(3)) < TOLERANCE
    await served.close()


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape"])
async def test_weights_of_another_model_are_refused_and_nothing_changes(fault: str) -> None:
    served, prompt = engine(), token_ids(18, 30)
    expected = bits(await served.generate(prompt, sampling()))
    state = dict(model(4).state_dict())
    if fault == "missing":
        del state["model.layers.1.mlp.up_proj.weight"]
    elif fault == "unknown":
        state["model.layers.9.mlp.up_proj.weight"] = torch.zeros(2)
    else:
        state["model.norm.weight"] = torch.zeros(MODEL.hidden + 1)
    with pytest.raises(EngineError, match=r"weights of version 5 are not this model's.*model\..*keeps version 0"):
        await served.load_weights(5, state)
    again = await served.generate(prompt, sampling())
    assert (bits(again), set(again.policy_versions)) == (expected, {0})
    await served.close()


@pytest.mark.parametrize(
    ("prompt", "message"),
    [([], "prompt of 0 tokens"), ([5] * 64, "prompt of 64 tokens"), ([-1], "token id"), ([10**6], "token id")],
)
async def test_a_prompt_that_cannot_be_read_is_refused_and_the_engine_lives(prompt: list[int], message: str) -> None:
    served = engine(context=64)
    with pytest.raises(EngineError, match=message):
        await served.generate(prompt, sampling())
    assert len((await served.generate(token_ids(1, 9), sampling(max_tokens=3))).ids) == 3
    await served.close()


async def test_closing_ends_calls_under_way_and_refuses_new_ones() -> None:
    served = engine(slots=1)
    waits = [asyncio.create_task(served.generate(token_ids(n, 9), sampling(max_tokens=450))) for n in range(3)]
    await asyncio.sleep(0.02)
    await served.close()
    for result in await asyncio.gather(*waits, return_exceptions=True):
        assert isinstance(result, EngineError)
    for call in (served.generate([5], sampling()), served.load_weights(1, model().state_dict())):
        with pytest.raises(EngineError, match="closed"):
            await call
    await served.release("x")
    await served.close()


async def test_a_fault_in_decoding_reaches_every_caller() -> None:
    served = engine(slots=1)
    del served.model.lm_head  # what no caller can do: break the model under the engine
    calls = [asyncio.create_task(served.generate([5], sampling())) for _ in range(2)]
    for result in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(result, AttributeError)
    with pytest.raises(EngineError, match="it failed: AttributeError"):
        await served.generate([5], sampling())


async def test_releasing_a_conversation_under_way_ends_its_call() -> None:
    served = engine()
    call = asyncio.create_task(served.generate(token_ids(1, 9), sampling(max_tokens=450), session="a"))
    while not served.stats().generated_tokens:
        await asyncio.sleep(0.001)
    await served.release("a")
    with pytest.raises(EngineError, match="'a' was released"):
        await asyncio.wait_for(call, 5)
    await served.close()
