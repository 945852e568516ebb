"""A plan as text, before anything starts."""

from __future__ import annotations

from collections.abc import Iterator

from biomni_lib.planner import work
from biomni_lib.planner.cards import GIB, Card
from biomni_lib.planner.memory import kv_bytes_a_token
from biomni_lib.planner.plan import CARD_RESERVE, USABLE, Plan

SHARES = ("together", "turns", "apart")


def tell(plan: Plan, cards: tuple[Card, int] | None, host_memory: float) -> str:
    """The plan in lines: memory by part, whether it fits, tokens and hours, and what was assumed.

    Args:
        cards: a card and how many; None when there are none. host_memory: bytes of this machine.
    """
    on_gpu = plan.config.engine.kind == "vllm"
    lines = [*_head(plan), *_memory(plan, on_gpu)]
    if on_gpu:
        lines += _no_cards(plan) if cards is None else _fit(plan, *cards)
    else:
        lines += _fit_host(plan, host_memory)
    lines += _tokens(plan)
    if on_gpu and cards is not None:
        lines += _hours(plan, *cards)
    return "\n".join([*lines, *_assumed(plan)])


def _head(plan: Plan) -> Iterator[str]:
    config, shape = plan.config, plan.shape
    name = config.model.path.name if config.model.path else "a model from scratch"
    rank = config.rl.lora_rank
    trained = f"a LoRA adapter of {shape.adapter_weights(rank):,}" if rank else "all weights"
    yarn = f", by YaRN x{config.model.yarn_factor:g}" if config.model.yarn_factor else ""
    yield f"plan of preset {config.preset}: {name}, {shape.weights:,} weights in {config.model.dtype}"
    yield f"trains {trained}; context {config.model.context:,} tokens{yarn}"
    known, factor = shape.positions, config.model.yarn_factor
    if factor is not None:
        known = config.model.yarn_positions or known
    if known and config.model.context > known * (factor or 1):
        yield f"  the context is beyond the {known:,} positions that the model knows; set model.yarn_factor"


def _memory(plan: Plan, on_gpu: bool) -> Iterator[str]:
    placed = plan.config.placement
    where = "a card" if on_gpu else "this machine"
    together = f", {placed.context_parallel} a row" if placed.context_parallel > 1 else ""
    ranks = f" (of {placed.learner_ranks} that share the weights{together})" if placed.learner_ranks > 1 else ""
    yield f"\nlearner, on {where}{ranks}:"
    yield from (_row(name, size) for name, size in plan.learner.items())
    yield _row("together", sum(plan.learner.values()))
    shared = f" (of {placed.tensor_parallel} that share the engine)" if placed.tensor_parallel > 1 else ""
    yield f"engine, on {where}{shared}:"
    yield from (_row(name, size) for name, size in plan.engine.items())
    yield _row("KV cache, 1 full", plan.kv * plan.kv_share)
    if not on_gpu:
        yield _row("KV cache, slots", plan.kv * plan.config.engine.slots)
    if plan.offloaded:
        yield f"weights, gradients and optimizer of all ranks, on the host: {_gib(plan.offloaded)}"
    sessions, each = plan.config.sandbox.sessions_max, plan.config.sandbox.memory_mb
    yield f"sandbox, on the host: {_gib(plan.sandbox)} at most ({sessions} sessions of {each} MiB)"


def _no_cards(plan: Plan) -> Iterator[str]:
    need, count = plan.least(plan.config.placement.share) / USABLE, plan.cards_needed
    yield "\nfits? no GPU was found here"
    yield f"  this preset asks for {count}, each with at least {_gib(need)}; name yours: --gpu 'H100-80GB x{count}'"


def _fit(plan: Plan, card: Card, count: int) -> Iterator[str]:
    share, usable = plan.config.placement.share, USABLE * card.memory
    yield f"\ncards: {count} of {card.name} with {_gib(card.memory)}, of which {_gib(usable)} are planned with"
    verdict = "fits" if plan.fits(card, count) else "DOES NOT FIT"
    why = "" if count >= plan.cards_needed else f"; it needs {plan.cards_needed} cards"
    yield f"{verdict}: {_gib(plan.least(share))} on the fullest card, placement.share = '{share}'{why}"
    others = (f"'{other}' {_gib(plan.least(other))}" for other in SHARES if other != share)
    yield f"  the other ways to share cards: {', '.join(others)}"
    room = plan.kv_room(card) / plan.kv_share
    tokens = room / kv_bytes_a_token(plan.shape, 2 if plan.config.model.dtype == "bfloat16" else 4)
    full = tokens / plan.config.model.context
    yield f"  room for the KV cache of {tokens:,.0f} tokens in each engine: {full:.1f} full contexts"


def _fit_host(plan: Plan, host_memory: float) -> Iterator[str]:
    held = plan.offloaded + sum(plan.learner.values()) + sum(plan.engine.values()) + plan.kv * plan.config.engine.slots
    verdict = "fits" if held + CARD_RESERVE <= host_memory else "DOES NOT FIT"
    yield f"\n{verdict}: {_gib(held)} and Python with its libraries in {_gib(host_memory)} of memory (no GPU is used)"


def _tokens(plan: Plan) -> Iterator[str]:
    yield "\ntokens expected:"
    for name, traffic in plan.traffic.items():
        written = f"{_count(traffic.written)} written"
        yield f"  {name:<10}{_count(traffic.tokens):>10}  {traffic.trajectories:,} trajectories, {written}"
    teacher = plan.config.teacher
    if teacher.engine != "scripted":
        yield f"  the teacher is {teacher.model} behind an endpoint, for at most {plan.config.api.spend_max_usd:g} USD"


def _hours(plan: Plan, card: Card, count: int) -> Iterator[str]:
    if not plan.fits(card, count):
        yield "\nhours: none, since it does not fit"
        return
    stages = plan.stages(card)
    yield f"\nhours expected, {plan.at_once(card):.0f} trajectories at once in each engine:"
    for stage in stages:
        yield f"  {stage.name:<10}{stage.hours:>10.1f} h  {stage.gpu_hours:,.1f} GPU-hours"
    yield f"  {'in all':<10}{sum(s.hours for s in stages):>10.1f} h  {sum(s.gpu_hours for s in stages):,.1f} GPU-hours"


def _assumed(plan: Plan) -> Iterator[str]:
    rl = plan.traffic["rl"]
    yield f"\nassumed: a trajectory has {rl.length:,.0f} tokens on average, {rl.written_share:.0%} of them written"
    yield f"  (--tokens, --written); cards reach {work.LEARNER_SHARE:.0%} of their peak in training,"
    yield f"  {work.PREFILL_SHARE:.0%} in reading, and {work.DECODE_SHARE:.0%} of their bandwidth in writing."
    yield "  Tests hold the memory's formulas against measurements; nobody has measured these shares here, and time in"
    yield "  tools is not counted, so take the hours as an order of magnitude."


def _row(name: str, size: float) -> str:
    return f"  {name:<18}{_gib(size):>12}"


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB / 10 else f"{size / (1 << 20):.1f} MiB"


def _count(tokens: float) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if tokens >= unit:
            return f"{tokens / unit:.1f} {name}"
    return f"{tokens:.0f}"
