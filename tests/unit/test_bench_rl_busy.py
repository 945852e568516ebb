"""The busy benchmark: every run meets the same tools, and both ratios come from the real scheduler and engine."""

from collections.abc import Callable

import numpy as np
import pytest

from biomni_lib.agent.ledger import save_trajectories
from biomni_lib.config import RunConfig
from biomni_lib.rl.scheduler import Ticket
from biomni_lib.sft.model import save_model
from biomni_lib.stages.bench import rl_busy
from biomni_lib.stages.bench.rl_busy import Bench
from biomni_lib.stages.paths import paths
from tests.acting_toy import model, tokenizer
from tests.unit.test_bench import SOME


def test_latencies_are_heavy_tailed_and_those_of_their_place(make_config: Callable[..., RunConfig]) -> None:
    bench = Bench(make_config(), [], turn_s=2.0)
    places = [Ticket(group, sample, 0, None) for group in range(500) for sample in range(4)]
    drawn = np.array([bench.latency_s(ticket, 0, 0.5) for ticket in places])
    assert np.median(drawn) == pytest.approx(1.0, rel=0.1)
    assert np.quantile(drawn, 0.99) == pytest.approx(30.0, rel=0.35)
    assert bench.latency_s(places[7], 1, 0.5) != drawn[7] == bench.latency_s(Ticket(1, 3, 2, None), 0, 0.5)


def test_both_ratios_are_measured(make_config: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    config = make_config()
    save_model(model(), tokenizer(), paths(config).sft_model)
    save_trajectories(paths(config).accepted, SOME)
    for name, value in {
        "GROUPS": 2,
        "GROUP_SIZE": 2,
        "SLOTS": 4,
        "STALENESS": 1,
        "STEPS": 6,  # more than what may lie ready when they begin
        "SYNCHRONOUS_STEPS": 2,
        "CURVE": (0.5,),
    }.items():
        monkeypatch.setattr(rl_busy, name, value)
    busy, speed_up = rl_busy.engine_busy(config), rl_busy.asynchronous_against_synchronous(config)
    assert min(busy.ratio, speed_up.ratio) > 0
    curve = busy.conditions["curve"]
    assert [point["tool_ratio"] for point in curve] == [0.5, 1.0]
    assert curve[1]["engine_busy"] == busy.ratio and curve[1]["async_vs_sync"] == speed_up.ratio
