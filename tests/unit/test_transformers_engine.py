"""The engine against plain transformers: same log-probabilities, same greedy tokens, same bits in any company."""

import asyncio
import copy

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3ForCausalLM

from biomni_lib.config import load_config
from biomni_lib.engines.base import Completion, Sampling
from biomni_lib.engines.transformers_engine import TransformersEngine
from biomni_lib.errors import EngineError
from biomni_lib.sft.model import ROPE_THETA, build_model
from tests.acting_toy import engine, model, reference_logprobs, renderer, token_ids, tokenizer

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


@pytest.mark.parametrize("temperature", [0.3, 0.6, 1.7])
async def test_log_probabilities_are_those_at_the_sampling_temperature(temperature: float) -> None:
    served, prompt = engine(), token_ids(3, 20)
    reply = await served.generate(prompt, sampling(temperature=temperature, top_p=0.9))
    assert worst(reply, prompt, model(), temperature) < TOLERANCE
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
