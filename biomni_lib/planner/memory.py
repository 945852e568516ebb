"""Bytes that training and serving hold, as formulas of the model's shape; a test holds each against what torch holds.

The activations are those that autograd keeps of transformers' own layers with `rl.packing`'s attention, counted tensor
by tensor: norms and their inputs are kept in float32 whatever the rest is. `size` is that of a number of the forward
pass: 4 for float32, 2 for bfloat16. Source of the way of counting: Korthikanti et al. 2022, section 4.
"""

from __future__ import annotations

from biomni_lib.planner.shapes import Shape

FLOAT32 = 4
LOGIT_COPIES = 3
"""Tensors of a logits chunk's size alive at once: log-probs, their exponential and the product under the entropy."""


def kv_bytes_a_token(shape: Shape, size: int) -> int:
    """Keys and values of one token in all layers."""
    return 2 * shape.layers * shape.key_width * size


def optimizer_bytes(shape: Shape, trained: int, *, muon: bool) -> int:
    """State of the optimizers in float32: two moments a weight for AdamW, one for what Muon trains.

    Args:
        trained: weights in training. muon: hidden matrices are trained by Muon, which is for all weights or an
            adapter's, whose matrices are all hidden ones.
    Source: Kingma and Ba 2015; Jordan et al. 2024.
    """
    if not muon:
        return 2 * FLOAT32 * trained
    full = trained == shape.weights
    matrices = shape.layers * shape.layer_matrix_weights if full else trained
    return FLOAT32 * matrices + 2 * FLOAT32 * (trained - matrices)


def layer_activation_bytes(shape: Shape, size: int, rank: int | None) -> int:
    """What the backward pass of one layer needs of the forward pass, a token.

    Args:
        rank: of a LoRA adapter; None when all weights are trained. Frozen matrices need no input, but an adapter reads
            its own in float32: a copy for each map where the forward pass is in bfloat16.
    """
    normed, attended = FLOAT32, 4 * (2 + shape.heads)  # a norm's input; its scale, and attention's log-sum-exp
    if shape.qk_norm:
        attended += 4 * (shape.heads + shape.kv_heads)
    if rank is None:
        heads = (normed + size) if shape.qk_norm else 0
        hidden = 2 * (normed + 2 * size)
        query, key, inner = heads + 3 * size, heads + 2 * size, 4 * size
        adapter = 0
    else:
        heads = normed if shape.qk_norm else 0
        inputs = 2 if size == FLOAT32 else 5
        hidden = 2 * normed + inputs * FLOAT32
        query, key, inner = heads + 2 * size + FLOAT32, heads + 2 * size, 3 * size + FLOAT32
        adapter = len(shape.layer_matrices) * rank * FLOAT32
    widths = shape.hidden * hidden + shape.query_width * query + shape.key_width * key + shape.intermediate * inner
    return widths + attended + adapter


def activation_bytes(shape: Shape, tokens: int, size: int, rank: int | None, *, checkpointing: bool) -> int:
    """What is held between the forward and the backward pass of one row, the logits apart.

    Args:
        tokens: of the row. checkpointing: only each layer's input is kept, and one layer at a time is computed again.
    """
    layer = layer_activation_bytes(shape, size, rank)
    final = shape.hidden * (FLOAT32 + (size if rank is None else 0)) + 4
    positions = 2 * shape.head_dim * size + 8
    layers = shape.layers * shape.hidden * size + layer if checkpointing else shape.layers * layer
    return tokens * (layers + final + positions)


def working_bytes(shape: Shape, tokens: int, size: int) -> int:
    """Gradients of activations alive at once in the backward pass of a layer: three of the feed-forward width."""
    return tokens * size * (3 * shape.intermediate + 2 * shape.hidden)


def logits_bytes(shape: Shape, rows: int, logits_max: int) -> int:
    """The chunk of logits of `rl.logprobs`, of at most `logits_max` values, with what is computed from it."""
    return min(rows, max(1, logits_max // shape.vocab)) * shape.vocab * FLOAT32 * LOGIT_COPIES
