import asyncio
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from biomni_lib.agent.ledger import Trajectory
from biomni_lib.errors import ConfigError, DataError
from biomni_lib.rl.capacity import changed, engines_for, enough, extrapolate, measure, scaling, sweep
from biomni_lib.rl.dispatcher import Dispatcher
from biomni_lib.rl.scheduler import GroupScheduler, Ticket
from biomni_lib.rl.simulated_engine import EngineModel
from biomni_lib.rl.simulator import INSTANCES, LearnerModel, Setting, Simulation
from biomni_lib.rl.staleness import StalenessBudget
from biomni_lib.rl.timeline import LEARNER, simulated_rows, simulated_steps, spans
from biomni_lib.rl.workload import P99_NORMAL, Plan, Workload, heavy_tailed, recorded_plans, typical_plans

ONE = Workload(typical_plans(turns=2, read=10, write=5, tool_s=3))
PLAIN = Setting(
    groups_per_step=1,
    group_size=2,
    max_staleness=0,
    agents=2,
    engine=EngineModel(slots=2, step_s=1, token_s=0.1),
    learner=LearnerModel(token_s=0.1, sync_s=1),
)


def ends(setting: Setting, workload: Workload = ONE, steps: int = 2) -> list[float]:
    return [pytest.approx(step.ended_s) for step in Simulation(setting, workload).run(steps)]


def test_a_synchronous_run_by_hand() -> None:
    """Both read (2 s), write (5 s), call (3 s), read and write again (7 s): 17 s. The learner takes 2 s for 20 tokens,
    the weights 1 s more, and it all begins again at 20 s."""
    assert ends(PLAIN) == [19, 39]
    first = Simulation(PLAIN, ONE).run(1)[0]
    assert (first.waited_s, first.began_s, first.tokens) == (pytest.approx(17), pytest.approx(17), 20)
    assert first.written == pytest.approx(20) and first.busy_s == pytest.approx(14)


def test_requests_share_an_engine() -> None:
    """Two at 1 + 2 x 0.5 s a step: 5 tokens in 10 s; one after the other in one slot at 1.5 s: 7.5 s each, and the
    second's tool runs while the first decodes."""
    both = changed(PLAIN, **{"engine.slot_step_s": 0.5, "engine.token_s": 0.0})
    assert ends(both, steps=1) == [10 + 3 + 10 + 2]
    alone = changed(both, **{"engine.slots": 1})
    assert ends(alone, steps=1) == [7.5 * 4 + 2]


def test_tools_wait_for_a_server() -> None:
    """The second call waits for the first, from 5 s to 8 s, and its last turn ends at 16 s."""
    setting = changed(PLAIN, servers=1, **{"engine.token_s": 0.0})
    assert ends(setting, steps=1) == [5 + 3 + 3 + 5 + 2]
    waits = simulated_rows(Simulation(setting, ONE).run(1))["turn_wait_s"]
    assert sorted(waits.tolist()) == [[0.0, 0.0], [pytest.approx(3.0), 0.0]]


def test_more_agents_than_kept_conversations_read_again() -> None:
    """One slot keeps one conversation: each second turn reads 10 + 15 tokens, not 10, at 0.1 s."""
    one = changed(PLAIN, **{"engine.slots": 1})
    kept = changed(one, **{"engine.kept": 2})
    assert ends(kept, steps=1) == [4 * 6 + 2]
    assert ends(one, steps=1) == [4 * 6 + 2 * 1.5 + 2]


def test_new_weights_pause_the_engine_and_may_cost_the_cache() -> None:
    """The learner's second step begins at 21 s; new weights come at 20 s, in the midst of decoding."""
    asynchronous = changed(PLAIN, max_staleness=1, **{"engine.swap_s": 0.5})
    plain, swapped = ends(changed(PLAIN, max_staleness=1), steps=3), ends(asynchronous, steps=3)
    recomputed = ends(changed(asynchronous, **{"engine.kv_on_update": "recompute"}), steps=3)
    assert plain[2].expected < swapped[2].expected < recomputed[2].expected


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.integers(0, 4),
    st.integers(1, 40),
    st.sampled_from([0.0, 0.3]),
    st.sampled_from([0.0, 0.1]),
    st.sampled_from([None, 3]),
)
def test_bound_and_counts_hold_in_simulated_runs(
    seed: int, staleness: int, agents: int, flat: float, failing: float, servers: int | None
) -> None:
    plans = heavy_tailed(typical_plans(turns=3, read=20, write=10, tool_s=0), median_s=2, seed=seed, size=500)
    setting = Setting(
        groups_per_step=3,
        group_size=4,
        max_staleness=staleness,
        agents=agents,
        refill_max=2,
        servers=servers,
        engine=EngineModel(count=2, slots=4, step_s=0.1, token_s=0.001, swap_s=0.2, kv_on_update="recompute"),
        learner=LearnerModel(token_s=0.05, sync_s=0.5),
    )
    simulation = Simulation(setting, Workload(plans, flat=flat, failing=failing), seed=seed)
    steps = simulation.run(12)
    counts = simulation.scheduler.budget.counts
    assert counts.balanced() and counts.trained >= 36
    assert all(0 <= s <= staleness for step in steps for s in step.staleness)
    used = [group.index for step in steps for group in step.groups]
    assert len(used) == len(set(used))
    assert len(simulation.agents) == len(simulation.scheduler.running) <= agents
    assert sum(engine.load for engine in simulation.engines) == len(simulation.agents)
    assert all(engine.active == len(engine.requests) <= 4 for engine in simulation.engines)
    assert 0 <= simulation.tools_running <= (servers or agents)
    assert all(engine.written <= 40 * engine.at_s for engine in simulation.engines)


async def test_simulation_and_dispatcher_take_the_same_batches() -> None:
    """Synchronous batches depend on nothing but the order and on which groups are flat: both shells must agree."""
    workload, seed = Workload(ONE.plans, flat=0.5), 3
    setting = changed(PLAIN, groups_per_step=3, agents=5, refill_max=2)
    simulated = [[g.index for g in step.groups] for step in Simulation(setting, workload, seed=seed).run(6)]

    async def run_member(ticket: Ticket) -> Trajectory:
        await asyncio.sleep(0)
        flat = workload.is_flat(seed, ticket.group)
        return Trajectory("toy", "i", total=0.0 if flat else float(ticket.sample), ending="solved")

    options = {"seed": seed, "group_size": 2, "places": 5, "refill_max": 2}
    made = Dispatcher(GroupScheduler(INSTANCES, StalenessBudget(3, 0), **options), run_member)
    real = []
    for step in range(6):
        real.append([group.index for group in await made.next_batch(step)])
        made.set_version(step + 1)
    assert simulated == real
    assert any(len(batch) < batch[-1] - batch[0] + 1 for batch in real)  # some were refilled


def test_staleness_hides_the_slow_tools() -> None:
    plans = heavy_tailed(typical_plans(turns=4, read=10, write=20, tool_s=0), median_s=3, size=2000)
    setting = Setting(4, 4, 0, 16, engine=EngineModel(slots=8, kept=64, step_s=0.1), learner=LearnerModel(token_s=1e-3))
    table = pd.DataFrame(
        {
            "max_staleness": s,
            **measure(changed(setting, max_staleness=s, agents=16 + 16 * s), Workload(plans), steps=40),
        }
        for s in (0, 1, 4)
    )
    assert table["tokens_per_s"].is_monotonic_increasing and table["engine_busy"].is_monotonic_increasing
    assert table["tokens_per_s"].iloc[2] > 2 * table["tokens_per_s"].iloc[0]
    assert table["staleness_mean"].iloc[0] == 0


def test_as_many_engines_as_the_learners_need() -> None:
    """No tools, no reading: an engine writes 4 / 0.1 = 40 tokens/s and a learner takes 150, so 4 engines a learner."""
    workload = Workload(typical_plans(turns=1, read=0, write=20, tool_s=0))
    setting = Setting(8, 4, 3, 8, engine=EngineModel(slots=4, step_s=0.1), learner=LearnerModel(token_s=1 / 150))
    table = engines_for(setting, workload, [1, 2], engines_max=12, steps=20)
    assert table["engines"].tolist() == [4, 8]
    assert engines_for(setting, workload, [8], engines_max=3, steps=8)["learner_idle"].iloc[0] > 0.8


def test_agents_beyond_the_engine_bring_nothing() -> None:
    workload = Workload(typical_plans(turns=2, read=0, write=10, tool_s=1))
    setting = Setting(16, 4, 3, 4, engine=EngineModel(slots=8, kept=99, step_s=0.1), learner=LearnerModel(token_s=1e-4))
    table = sweep(setting, workload, "agents", [4, 8, 16, 32, 64], steps=16)
    assert enough(table, "agents") in (12, 16, 32)
    assert table["engine_of_limit"].iloc[0] < 0.4 and table["engine_of_limit"].iloc[-1] > 0.95


def test_scaling_and_its_extrapolation() -> None:
    workload = Workload(heavy_tailed(typical_plans(turns=2, read=5, write=10, tool_s=0), median_s=0.5, size=2000))
    setting = Setting(
        16, 2, 2, 16, engine=EngineModel(slots=8, kept=16, step_s=0.1), learner=LearnerModel(token_s=1e-3)
    )
    table = scaling(setting, workload, [1, 2, 4, 8], steps=12, seeds=[0, 1])
    assert table["agents"].tolist() == [16, 16, 32, 32, 64, 64, 128, 128]
    far = extrapolate(table, [16, 64])
    truth = scaling(setting, workload, [16], steps=12)["tokens_per_s"].iloc[0]
    assert far["low"].iloc[0] <= truth <= far["high"].iloc[0]
    assert far["error"].iloc[1] > far["error"].iloc[0] >= far["held_out"].iloc[0]


def test_an_exact_power_law_is_continued_without_error() -> None:
    sizes = [2, 4, 8, 16]
    table = pd.DataFrame({"engines": sizes, "tokens_per_s": [3 * n**0.9 for n in sizes]})
    far = extrapolate(table, [1000])
    assert far["tokens_per_s"].iloc[0] == pytest.approx(3 * 1000**0.9)
    assert far["error"].iloc[0] == pytest.approx(0, abs=1e-9) and far["exponent"].iloc[0] == pytest.approx(0.9)
    with pytest.raises(DataError, match="at least 4 simulated sizes, not 3"):
        extrapolate(table.head(3), [1000])


def test_the_tail_is_as_heavy_as_asked() -> None:
    plans = heavy_tailed(typical_plans(turns=2, read=1, write=1, tool_s=9), median_s=2, p99_over_median=30)
    seconds = np.array([plan.tool_s[0] for plan in plans])
    assert np.median(seconds) == pytest.approx(2, rel=0.05)
    assert np.quantile(seconds, 0.99) == pytest.approx(60, rel=0.1)
    assert np.log(seconds).std() == pytest.approx(math.log(30) / P99_NORMAL, rel=0.02)
    assert {plan.tool_s[1] for plan in plans} == {0.0}
    cut = heavy_tailed(typical_plans(turns=2, read=1, write=1, tool_s=9), median_s=2, limit_s=10)
    assert max(plan.tool_s[0] for plan in cut) == 10


def test_recorded_trajectories_become_plans() -> None:
    rows = pd.DataFrame({"turn_read": [[9, 4]], "turn_tokens": [[3, 2]], "turn_tool_s": [[0.5, 0.0]]})
    assert recorded_plans(rows) == [Plan((9, 4), (3, 2), (0.5, 0.0))]
    with pytest.raises(DataError, match="03_async_rl"):
        recorded_plans(rows.drop(columns="turn_read"))


def test_the_same_seed_gives_the_same_run_and_another_another() -> None:
    plans = heavy_tailed(typical_plans(turns=3, read=5, write=10, tool_s=0), median_s=3, size=500)
    runs = [[s.ended_s for s in Simulation(PLAIN, Workload(plans), seed=seed).run(4)] for seed in (1, 1, 2)]
    assert runs[0] == runs[1] != runs[2]


def test_spans_of_a_simulated_run() -> None:
    steps = Simulation(PLAIN, ONE).run(2)
    table = spans(simulated_rows(steps), simulated_steps(steps))
    one = table[(table["lane"] == 0) & (table["step"] == 0)]
    assert one["kind"].tolist() == ["generate", "tool", "generate"]
    assert one["began_s"].tolist() == pytest.approx([0, 7, 10]) and one["ended_s"].tolist() == pytest.approx(
        [7, 10, 17]
    )
    learned = table[table["lane"] == LEARNER]
    assert learned["began_s"].tolist() == pytest.approx([17, 37])
    assert set(table["lane"]) == {LEARNER, 0, 1}


def test_what_cannot_be_simulated_is_refused() -> None:
    with pytest.raises(ConfigError, match="must be at least 1"):
        Simulation(changed(PLAIN, agents=0), ONE)
    with pytest.raises(ConfigError, match="gives no batch"):
        Simulation(PLAIN, Workload(ONE.plans, failing=1.0))
    with pytest.raises(ConfigError, match=r"engine\.wheels is no setting"):
        changed(PLAIN, **{"engine.wheels": 4})
    with pytest.raises(ConfigError, match="steps = 2"):
        measure(PLAIN, ONE, steps=2)
