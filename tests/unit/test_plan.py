"""The plan of a preset: cards, ways to share them, what is printed, and what is refused before it starts."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from biomni_lib.config import RunConfig, load_config
from biomni_lib.errors import ConfigError, RunError
from biomni_lib.planner import Card, Plan, make_plan, parse_cards, tell
from biomni_lib.planner.cards import GIB, KNOWN
from biomni_lib.planner.plan import CARD_RESERVE, USABLE
from biomni_lib.rl.logprobs import LOGITS_MAX
from biomni_lib.stages import plan as stage
from tests.acting_toy import model

H100 = KNOWN["H100-80GB"]


def planned(config: RunConfig, **assumed: float) -> Plan:
    return make_plan(config, logits_max=LOGITS_MAX, **assumed)


@pytest.fixture
def gpu_8b() -> Plan:
    return planned(load_config("gpu-8b"))


@pytest.mark.parametrize(
    ("text", "name", "gib", "count"),
    [
        ("H100-80GB x1", "H100-80GB", 79.1, 1),
        ("h100-80gb", "H100-80GB", 79.1, 1),
        ("H200-141GB x 8", "H200-141GB", 139.7, 8),
        ("80 x4", "80 GiB card", 80, 4),
        ("24GiB 2", "24 GiB card", 24, 2),
    ],
)
def test_cards_by_name_or_by_memory(text: str, name: str, gib: float, count: int) -> None:
    card, found = parse_cards(text)
    assert (card.name, card.memory, found) == (name, gib * GIB, count)


@pytest.mark.parametrize("text", ["", "H100-80GB x0", "TPU x2", "0 x1", "80 x1 x2"])
def test_cards_that_are_none(text: str) -> None:
    with pytest.raises(ConfigError, match="must be NAME xCOUNT or GIB xCOUNT; names: A100"):
        parse_cards(text)


def test_8b_with_lora_fits_on_one_card_in_turns_and_not_at_once(gpu_8b: Plan) -> None:
    """By hand: 8.19 G weights of 2 bytes twice over, and the layers' inputs of 65,536 tokens, are more than 50 GiB."""
    inputs = 36 * 65_536 * 4096 * 2
    assert gpu_8b.learner["activations"] > inputs
    assert gpu_8b.engine["weights"] == 2 * 8_190_735_360
    assert gpu_8b.kv == 65_536 * 2 * 36 * 8 * 128 * 2
    assert gpu_8b.fits(H100, 1) and gpu_8b.config.placement.share == "turns"
    assert gpu_8b.least("together") > H100.memory > gpu_8b.least("turns")
    assert not planned(load_config("gpu-8b", **{"placement.share": "together"})).fits(H100, 1)
    apart = planned(load_config("gpu-8b", **{"placement.share": "apart"}))
    assert (apart.cards_needed, apart.fits(H100, 1), apart.fits(H100, 2)) == (2, False, True)


def test_32b_needs_sixteen_cards() -> None:
    plan = planned(load_config("gpu-32b"))
    assert plan.cards_needed == 16 and plan.fits(H100, 16) and not plan.fits(H100, 15)
    eight = planned(load_config("gpu-32b", placement={"engines": 2, "learner_ranks": 8}))
    assert eight.cards_needed == 8 and not eight.fits(H100, 8)
    adam = 2 * 4 * 32_762_123_264
    assert eight.learner["optimizer"] == adam / 8 and plan.learner["optimizer"] == adam / 16


def test_a_row_read_by_several_ranks_is_divided_among_them() -> None:
    plan, alone = planned(load_config("gpu-32b")), planned(load_config("gpu-32b", placement={"context_parallel": 1}))
    assert alone.learner["activations"] == 4 * plan.learner["activations"]
    assert "(of 16 that share the weights, 4 a row)" in tell(plan, None, 1.0)
    many = planned(load_config("gpu-32b", placement={"context_parallel": 16}))  # 8 heads of keys, each on two ranks
    assert 1 < 16 * many.learner["activations"] / alone.learner["activations"] < 1.05
    told = r"^placement\.context_parallel = 3: the model's 64 .* set one of \[1, 2, 4, 8, 16, 32, 64\]$"
    with pytest.raises(ConfigError, match=told):
        planned(load_config("gpu-32b", placement={"learner_ranks": 15, "context_parallel": 3}))


def test_what_ranks_keep_may_rest_on_the_host() -> None:
    cards, host = (planned(load_config("gpu-32b", placement={"learner_offload": off})) for off in (False, True))
    kept = sum(cards.learner[part] for part in ("weights", "gradients", "optimizer"))
    assert host.offloaded == 16 * kept == 16 * (4 + 4 + 8) * 32_762_123_264 / 16 and cards.offloaded == 0
    assert sum(host.learner.values()) == pytest.approx(sum(cards.learner.values()) - kept)
    told = "weights, gradients and optimizer of all ranks, on the host: 488.2 GiB"
    assert told in tell(host, (H100, 16), 1.0) and "all ranks" not in tell(cards, (H100, 16), 1.0)


def test_the_room_that_is_left_is_for_the_kv_cache(gpu_8b: Plan) -> None:
    tight = dataclasses.replace(H100, memory=gpu_8b.least("turns") / USABLE)
    room = gpu_8b.kv_room(tight)
    resting = sum(size for name, size in gpu_8b.learner.items() if name in ("weights", "gradients", "optimizer"))
    assert room == pytest.approx(USABLE * tight.memory - resting - sum(gpu_8b.engine.values()) - CARD_RESERVE)
    assert gpu_8b.at_once(H100) > gpu_8b.at_once(tight) >= 1
    assert gpu_8b.at_once(dataclasses.replace(H100, memory=1e15)) == gpu_8b.config.engine.slots


def test_hours_follow_tokens_and_cards(gpu_8b: Plan) -> None:
    def hours(plan: Plan, card: Card) -> dict[str, float]:
        return {stage.name: stage.hours for stage in plan.stages(card)}

    base = hours(gpu_8b, H100)
    twice = hours(planned(load_config("gpu-8b", **{"rl.steps": 2 * gpu_8b.config.rl.steps})), H100)
    assert twice["rl"] == pytest.approx(2 * base["rl"]) and twice["sft"] == base["sft"]
    faster = dataclasses.replace(H100, flops=2 * H100.flops, bandwidth=2 * H100.bandwidth)
    assert hours(gpu_8b, faster) == {name: pytest.approx(value / 2) for name, value in base.items()}
    assert hours(planned(gpu_8b.config, written_share=0.9), H100)["rl"] > base["rl"]
    assert hours(planned(gpu_8b.config, mean_tokens=60_000), H100)["rl"] > 3.5 * base["rl"]
    rl = next(s for s in planned(load_config("gpu-32b")).stages(H100) if s.name == "rl")
    assert rl.gpu_hours == pytest.approx(16 * rl.hours)


def test_answers_under_budgets_are_counted(gpu_8b: Plan) -> None:
    tasks, samples = len(gpu_8b.config.data.tasks), gpu_8b.config.evaluate.samples
    budgets, models = 5 + 5, 2
    assert gpu_8b.traffic["length"].trajectories == tasks * samples * 40 * budgets * models
    one = planned(load_config("gpu-8b", length={"turns": (2,), "tokens": (), "instances": 10**6}))
    assert one.traffic["length"].trajectories == tasks * samples * one.config.evaluate.instances * models
    assert one.stages(H100)[-1].hours < gpu_8b.stages(H100)[-1].hours * one.config.evaluate.instances / 40


def test_what_is_told(gpu_8b: Plan) -> None:
    told = tell(gpu_8b, (H100, 1), 1.0)
    parts = [
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "logits chunk",
        "KV cache",
        "sandbox",
        "fits: ",
        "GPU-hours",
    ]
    assert all(part in told for part in [*parts, "8,190,735,360 weights in bfloat16", "YaRN x2", "claude", "20 USD"])
    small = tell(gpu_8b, (dataclasses.replace(H100, memory=24 * GIB), 1), 1.0)
    assert "DOES NOT FIT" in small and "hours: none" in small and "GPU-hours" not in small
    assert "no GPU was found here" in tell(gpu_8b, None, 1.0) and "positions" not in told
    short = planned(load_config("gpu-8b", **{"model.yarn_factor": None}))
    assert "beyond the 40,960 positions" in tell(short, None, 1.0)
    assert "it needs 16 cards" in tell(planned(load_config("gpu-32b")), (H100, 8), 1.0)


@pytest.mark.parametrize("preset", ["cpu", "smoke"])
def test_a_cpu_preset_is_planned_for_the_machines_memory(
    preset: str, make_config: Callable[..., RunConfig], capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage.run(make_config(preset))
    told = capsys.readouterr().out
    assert "fits: " in told and "no GPU is used" in told and "trains all weights" in told
    plan = planned(make_config(preset))
    assert "DOES NOT FIT" in tell(plan, None, sum(plan.learner.values()))


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config("gpu-8b")
    assert stage.run(config, gpu="H200-141GB x1", tokens=20_000, written=0.25)
    told = capsys.readouterr().out
    assert "1 of H200-141GB" in told and "20,000 tokens on average, 25% of them written" in told
    assert not stage.run(config, gpu="24")


def test_before_it_starts_a_gpu_preset_is_planned_and_refused(
    make_config: Callable[..., RunConfig],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = load_config("gpu-8b", runs_root=tmp_path)
    monkeypatch.setattr(stage, "find_cards", lambda: None)
    with pytest.raises(RunError, match="preset gpu-8b does not fit on the GPUs of this machine"):
        stage.before_start(config)
    assert "plan of preset gpu-8b" in capsys.readouterr().out
    monkeypatch.setattr(stage, "find_cards", lambda: (H100, 1))
    elsewhere = {"model.path": str(tmp_path / "Qwen3-8B")}
    with pytest.raises(RunError, match=r"Qwen/Qwen3-8B cannot be fetched .*\(HF_HUB_OFFLINE is set\)"):
        stage.before_start(load_config("gpu-8b", **elsewhere))
    with pytest.raises(ConfigError, match=r"model\.path = '.*Qwen3-8B': no model there"):
        stage.before_start(load_config("gpu-8b", **elsewhere, model={"repository": None, "revision": None}))
    model().save_pretrained(tmp_path / "model")
    stage.before_start(load_config("gpu-8b", **{"model.path": str(tmp_path / "model")}))
    capsys.readouterr()
    stage.before_start(make_config("smoke"))
    assert capsys.readouterr().out == ""


def test_a_model_that_is_not_known() -> None:
    with pytest.raises(ConfigError, match=r"model\.path = 'models/Other': no model there .*Qwen3-8B, Qwen3-32B"):
        planned(load_config("gpu-8b", model={"path": "models/Other", "repository": None, "revision": None}))
