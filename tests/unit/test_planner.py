"""The plan's formulas against what torch really holds and does, at sizes where both can be had."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM, Qwen3Config, Qwen3ForCausalLM

from biomni_lib.engines.paged_cache import PagedCache
from biomni_lib.errors import ConfigError
from biomni_lib.planner import memory, work
from biomni_lib.planner.shapes import KNOWN, Shape, read_shape
from biomni_lib.rl.adapter import add_adapter
from biomni_lib.rl.logprobs import token_logprobs
from biomni_lib.rl.optimizers import make_optimizers
from biomni_lib.rl.packing import PACKED
from tests.held_memory import Held, kept_for_backward

SIZES = {"vocab": 300, "hidden": 64, "layers": 3, "heads": 4, "kv_heads": 2, "head_dim": 32, "intermediate": 192}
QWEN, LLAMA = Shape(**SIZES, tied=False), Shape(**SIZES, tied=True, qk_norm=False)
RANKS = (None, 4)
DTYPES = {4: torch.float32, 2: torch.bfloat16}
LENGTHS = (200, 120)
TOKENS = sum(LENGTHS)


def made(
    shape: Shape, size: int = 4, rank: int | None = None, *, checkpointing: bool = False, device: str = "cpu"
) -> Any:
    """A model of a shape as the learner has it: its attention, its adapter, its checkpointing."""
    kind, cls = (Qwen3Config, Qwen3ForCausalLM) if shape.qk_norm else (LlamaConfig, LlamaForCausalLM)
    config = kind(
        vocab_size=shape.vocab,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        tie_word_embeddings=shape.tied,
    )
    with torch.device(device):
        model = cls(config).to(DTYPES[size]).train()
    model.set_attn_implementation(PACKED)
    if rank is not None:
        add_adapter(model, rank=rank, alpha=rank, seed=0)
    if checkpointing:
        model.gradient_checkpointing_enable()
    return model


def hidden_states(model: Any) -> torch.Tensor:
    """The body's output on one row of two sequences."""
    ids = torch.randint(0, SIZES["vocab"], (1, TOKENS))
    positions = torch.cat([torch.arange(length) for length in LENGTHS])[None]
    return model.model(input_ids=ids, position_ids=positions, use_cache=False).last_hidden_state


def trained(model: Any) -> int:
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


@pytest.mark.parametrize("shape", [QWEN, LLAMA], ids=["qwen3", "llama"])
def test_weights_are_those_of_the_model(shape: Shape) -> None:
    assert made(shape).num_parameters() == shape.weights
    assert trained(made(shape, rank=4)) == shape.adapter_weights(4)


@pytest.mark.parametrize(("name", "billions"), [("Qwen3-8B", 8.2), ("Qwen3-32B", 32.8)])
def test_weights_at_full_size(name: str, billions: float) -> None:
    """On a device without memory: transformers' own model of that shape has as many, and its card says so."""
    model = made(KNOWN[name], device="meta")
    assert model.num_parameters() == KNOWN[name].weights
    assert round(KNOWN[name].weights / 1e9, 1) == billions


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("optimizer", ["adamw", "muon"])
def test_the_optimizers_state_and_the_gradients(rank: int | None, optimizer: str) -> None:
    """Exact, but for AdamW's step counts of 4 bytes a tensor."""
    model = made(QWEN, rank=rank)
    optimizers = make_optimizers(model, optimizer, lr_muon=1e-3, lr_adamw=1e-3)
    tensors = [p for p in model.parameters() if p.requires_grad]
    for parameter in tensors:
        parameter.grad = torch.ones_like(parameter)
    optimizers.step()
    states = [state for member in optimizers.members for state in member.state.values()]
    held = sum(t.nbytes for state in states for t in state.values() if t.ndim)
    assert held == memory.optimizer_bytes(QWEN, trained(model), muon=optimizer == "muon")
    assert sum(p.grad.nbytes for p in tensors if p.grad is not None) == memory.FLOAT32 * trained(model)


@pytest.mark.parametrize("shape", [QWEN, LLAMA], ids=["qwen3", "llama"])
@pytest.mark.parametrize("size", DTYPES)
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_what_autograd_keeps_for_the_backward_pass(
    shape: Shape, size: int, rank: int | None, checkpointing: bool
) -> None:
    """Within 2% of the storages that autograd saves, each counted once and weights not at all."""
    model = made(shape, size, rank, checkpointing=checkpointing)
    measured = kept_for_backward(lambda: hidden_states(model), (*model.parameters(), *model.buffers()))
    planned = memory.activation_bytes(shape, TOKENS, size, rank, checkpointing=checkpointing)
    if checkpointing:  # one layer is planned for that autograd has not kept, and the positions are not autograd's
        planned -= TOKENS * (memory.layer_activation_bytes(shape, size, rank) + 2 * shape.head_dim * size)
    assert measured == pytest.approx(planned, rel=0.02)


@pytest.mark.parametrize("size", DTYPES)
@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_peak_of_a_pass_forward_and_backward(size: int, rank: int | None, checkpointing: bool) -> None:
    """At most 2% above the plan and at most 15% below."""
    model = made(QWEN, size, rank, checkpointing=checkpointing)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    with Held([*model.parameters(), *model.buffers(), *grads]) as held:
        hidden_states(model).float().pow(2).mean().backward()
    planned = memory.activation_bytes(QWEN, TOKENS, size, rank, checkpointing=checkpointing)
    planned += memory.working_bytes(QWEN, TOKENS, size)
    assert 0.85 * planned <= held.most <= 1.02 * planned


@pytest.mark.parametrize("rows", [40, 400])
def test_the_logits_chunk(rows: int) -> None:
    """Within 10%, whether there is one chunk or many."""
    shape = Shape(**SIZES | {"vocab": 4000, "hidden": 4}, tied=False)
    logits_max = 50 * shape.vocab
    hidden = torch.randn(rows, shape.hidden, requires_grad=True)
    head = torch.randn(shape.vocab, shape.hidden, requires_grad=True)
    with Held() as held:
        token_logprobs(hidden, head, torch.randint(shape.vocab, (rows,)), 1.0, logits_max=logits_max)[
            0
        ].sum().backward()
    assert held.most == pytest.approx(memory.logits_bytes(shape, rows, logits_max), rel=0.1)


def test_the_kv_cache_of_the_engine() -> None:
    """Exact: the engine's cache is allocated for its slots at once."""
    cache = PagedCache(made(QWEN).config, slots=3, length=256)
    held = sum(t.nbytes for t in (*cache.keys, *cache.values))
    assert held == 3 * 256 * memory.kv_bytes_a_token(QWEN, 4)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_arithmetic_of_a_step(rank: int | None, checkpointing: bool) -> None:
    """Within 5% of the matrix products that PyTorch counts; equal where all weights are trained. With an adapter the
    plan counts gradients of the first layer's inputs, which nobody needs. Attention is left out: not counted on CPU."""
    model = made(QWEN, 4, rank, checkpointing=checkpointing)
    written = TOKENS // 2
    counter = FlopCounterMode(display=False)
    with counter:
        hidden = hidden_states(model)[0, :written]
        targets = torch.randint(QWEN.vocab, (written,))
        logprobs, _ = token_logprobs(hidden, model.lm_head.weight, targets, 1.0, logits_max=40 * QWEN.vocab)
        logprobs.sum().backward()
    counts = counter.get_flop_counts()["Global"]
    products = sum(n for operation, n in counts.items() if "attention" not in str(operation))
    planned = work.training_flops(QWEN, TOKENS, 0, written, rank, checkpointing=checkpointing)
    assert products == pytest.approx(planned, rel=0.05 if rank else 1e-9)


def test_the_arithmetic_of_attention() -> None:
    """Every token sees half of its sequence: half of what a full square of scores takes, written out here."""
    scores = torch.randn(QWEN.heads, 120, QWEN.head_dim)
    counter = FlopCounterMode(display=False)
    with counter:
        (scores @ scores.transpose(1, 2)) @ scores
    assert work.attention_flops(QWEN, 120, 120) == QWEN.layers * counter.get_total_flops() / 2
    assert work.forward_flops(QWEN, 120, 0) == 2 * 120 * QWEN.layers * QWEN.layer_matrix_weights


def test_a_shape_is_read_from_a_models_folder(tmp_path: Path) -> None:
    for shape in (QWEN, LLAMA):
        made(shape).config.save_pretrained(tmp_path)
        read = read_shape(tmp_path / "config.json")
        assert (read.weights, read.qk_norm, read.tied) == (shape.weights, shape.qk_norm, shape.tied)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "mamba"}))
    with pytest.raises(ConfigError, match="model_type = 'mamba': the plan knows qwen3 and llama"):
        read_shape(tmp_path / "config.json")
