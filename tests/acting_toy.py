"""What the tests of the acting floor share: a tokenizer, a tiny model and an engine, all real, only small."""

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.config import ModelConfig
from biomni_lib.engines.transformers_engine import KvOnUpdate, TransformersEngine
from biomni_lib.sft.model import build_model
from biomni_lib.sft.tokenizer import train_tokenizer

MODEL = ModelConfig(hidden=32, layers=2, heads=4, kv_heads=2, head_dim=8, intermediate=64, vocab=1536, context=512)
TEXTS = [
    "Task: given a patient's phenotypes, diagnose the disease.\nPhenotypes: HP:0001250, HP:0004322\nCandidate genes:",
    '<think>\nI look it up.\n</think>\n<execute>\nprint(match_score(t, "ENSG00000157764"))\n</execute>',
]


@functools.cache
def tokenizer() -> PreTrainedTokenizerBase:
    """A tokenizer of the smoke preset's size."""
    return train_tokenizer(TEXTS, MODEL.vocab)


@functools.cache
def renderer() -> ChatRenderer:
    return ChatRenderer(tokenizer())


def model(seed: int = 0, scale: float = 4.0, sizes: ModelConfig = MODEL) -> PreTrainedModel:
    """A random model whose distributions are peaked (`scale`), so that mistakes show in its choices."""
    made = build_model(sizes, tokenizer(), seed)
    with torch.no_grad():
        made.model.embed_tokens.weight.mul_(scale)
    return made.eval()


def engine(
    seed: int = 0,
    *,
    slots: int = 4,
    context: int = 512,
    prefill_chunk: int = 32,
    parked: int = 0,
    kv_on_update: KvOnUpdate = "keep",
) -> TransformersEngine:
    sizes = {"slots": slots, "context": context, "prefill_chunk": prefill_chunk, "parked": parked}
    return TransformersEngine(model(seed), renderer(), kv_on_update=kv_on_update, **sizes)


def token_ids(seed: int, count: int) -> list[int]:
    """Seeded ids of a prompt, without special tokens."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(20, len(tokenizer()), (count,), generator=generator).tolist()


def reference_logprobs(reference: PreTrainedModel, ids: Sequence[int], temperature: float = 1.0) -> Tensor:
    """Log-probability of each token of `ids` after the first, by one plain forward pass."""
    with torch.inference_mode():
        logits = reference(torch.tensor([list(ids)])).logits[0, :-1].double() / temperature
    return logits.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]
