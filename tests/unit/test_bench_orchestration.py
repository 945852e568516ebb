"""The benchmark of rollouts in tiny sizes: real processes take turns, and every number is of what it says."""

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from biomni_lib.config import RunConfig
from biomni_lib.errors import RunError
from biomni_lib.sft.model import save_model
from biomni_lib.stages import bench
from biomni_lib.stages.bench import orchestration, peer_environment
from biomni_lib.stages.bench.measured import Missing, Ratio, Reading, Side, take_turns
from biomni_lib.stages.bench.processes import ClientProcess, available_cores
from biomni_lib.stages.build_data import open_lake, open_tasks, save_instances
from biomni_lib.stages.loadtest.job import Job
from biomni_lib.stages.loadtest.mock_server import Program, mock_server
from biomni_lib.stages.loadtest.rollouts import Client, OpenAIEngine, ProgramEngine
from biomni_lib.stages.paths import paths
from tests.acting_toy import model, renderer, tokenizer

ABSENT = Missing("verifiers", "is not there")
STAND_IN = "import sys\nfor _ in sys.stdin:\n print({text!r}, flush=True)"


@pytest.fixture
def job_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Four rollouts over two prompts."""
    monkeypatch.setattr(orchestration, "ROLLOUTS", 4)
    tokenizer().save_pretrained(tmp_path / "model")
    return orchestration.write_job(tmp_path, ["One?", "Two?"], "Be brief.", tmp_path / "model")


@contextlib.contextmanager
def standing_in(**seconds: float) -> Iterator[dict[str, ClientProcess]]:
    """Processes that claim these seconds for ten turns."""
    told = {
        name: STAND_IN.format(text=json.dumps({"done": 10, "seconds": s, "cpu_s": s / 2}))
        for name, s in seconds.items()
    }
    with contextlib.ExitStack() as stack:
        yield {
            name: stack.enter_context(
                contextlib.closing(ClientProcess([sys.executable, "-c", code], available_cores()[0]))
            )
            for name, code in told.items()
        }


def test_the_key_is_registered_and_needs_the_model() -> None:
    assert bench.select(["orchestration"]) == ["orchestration.vs_verifiers"]
    assert bench.MEASURES["orchestration.vs_verifiers"].needs == "sft"


async def test_every_rollout_of_the_job_takes_its_five_turns(job_file: Path) -> None:
    job = Job.load(job_file)
    assert (job.prompts, job.turns) == (["One?", "Two?", "One?", "Two?"], 5)
    with mock_server(Path(job.program_file)) as server:
        made = await Client(job, engine := OpenAIEngine(server.url, "mock")).run()
        await engine.close()
    here = await Client(job, ProgramEngine(Program.load(Path(job.program_file)))).run()
    for one, other in zip(made, here, strict=True):
        one.validate()
        assert one.assistant_turns == list(orchestration.TURNS) and one.ending == "solved"
        assert [turn.observation for turn in one.turns] == [*[orchestration.OBSERVATION] * 4, ""]
        assert one.token_ids.tolist() == other.token_ids.tolist()
        assert set(one.logprobs[one.loss_mask].tolist()) == {-0.125}
    assert renderer().messages(made[1].token_ids.tolist())[1] == ("user", "Two?")


async def test_a_round_counts_turns_and_refuses_a_rollout_that_ends_early(job_file: Path) -> None:
    job = Job.load(job_file)
    program = Program.load(Path(job.program_file))
    done = await Client(job, ProgramEngine(program)).round()
    assert done.done == 20 and done.seconds > 0 and done.cpu_s > 0
    with pytest.raises(AssertionError):
        await Client(job, ProgramEngine(Program(program.turns[-1:], program.start_id))).round()


@pytest.mark.parametrize("peer", [Path("python"), ABSENT])
def test_the_ratio_is_of_turns_a_second_and_names_every_side(config: RunConfig, peer: Path | Missing) -> None:
    present = {orchestration.THEIRS: 2.0} if isinstance(peer, Path) else {}
    with standing_in(**{orchestration.OURS: 0.5, orchestration.IN_PROCESS: 0.1, **present}) as running:
        seconds = take_turns({name: client.seconds for name, client in running.items()}, 2)
        found = orchestration.measured(config, running, seconds, peer)
        assert all(len(client.rounds) == 3 for client in running.values())
    ours = Side(orchestration.OURS, "turns per second", 20.0)
    values = {(side.name, side.unit): side.value for side in found.beside if isinstance(side, Side)}
    assert values[orchestration.IN_PROCESS, "turns per second"] == 100.0
    assert values[f"{orchestration.OURS}, one core", "ms of processor a turn"] == 25.0
    assert 1 < values[f"{orchestration.OURS}, peak", "MB"] < 100
    if isinstance(peer, Path):
        assert isinstance(found, Ratio) and (found.numerator, found.ratio) == (ours, 4.0)
        assert found.denominator == Side(orchestration.THEIRS, "turns per second", 5.0)
        assert found.conditions["verifiers"] == "0.4.0" and len(values) == 7
    else:
        assert isinstance(found, Reading) and found.side == ours
        assert found.beside[-1] == ABSENT and len(values) == 5


def test_a_client_that_ends_gives_no_number() -> None:
    ending = ClientProcess([sys.executable, "-c", "raise SystemExit(3)"], None)
    with contextlib.closing(ending) as client, pytest.raises(subprocess.CalledProcessError, match="status 3"):
        client.seconds()


def test_a_peer_that_cannot_be_installed_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_environment, "REQUIREMENTS", tmp_path)
    with pytest.raises(RunError, match="from a checkout"):
        peer_environment.peer_python("verifiers", tmp_path / "cache")
    (tmp_path / "verifiers.txt").write_text("--no-index\nverifiers==0.4.0\n")
    with pytest.raises(RunError, match=r"verifiers cannot be installed: ERROR: .*verifiers==0\.4\.0"):
        peer_environment.peer_python("verifiers", tmp_path / "cache")


def test_an_environment_is_made_once_and_again_when_its_pins_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peer_environment, "REQUIREMENTS", tmp_path)
    (tmp_path / "none.txt").write_text("# nothing to install\n")
    made = peer_environment.peer_python("none", tmp_path / "cache")
    code = "import sys; print(sys.prefix)"
    assert subprocess.run([made, "-c", code], capture_output=True, text=True).stdout.strip() == str(made.parents[1])
    assert peer_environment.peer_python("none", tmp_path / "cache") == made
    assert capsys.readouterr().out.count("installing none") == 1
    (tmp_path / "none.txt").write_text("# still nothing\n")
    assert peer_environment.peer_python("none", tmp_path / "cache") != made


@pytest.fixture
def ready(make_config: Callable[..., RunConfig], lake_dir: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """What the benchmark needs, small."""
    monkeypatch.setattr(orchestration, "ROLLOUTS", 4)
    monkeypatch.setattr(orchestration, "ROUNDS", 1)
    config = make_config()
    config.lake_dir.parent.mkdir(parents=True)
    config.lake_dir.symlink_to(lake_dir)
    save_instances(config, open_tasks(config, open_lake(config)))
    save_model(model(), tokenizer(), paths(config).sft_model)
    return config


@pytest.mark.slow
def test_without_the_peer_our_number_stands_alone(ready: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peer_environment, "REQUIREMENTS", ready.run_dir)
    found = orchestration.rollouts_against_verifiers(ready)
    assert isinstance(found, Reading) and found.side.value > 0
    assert "verifiers" in str(found) and "not available" in str(found)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(900)
def test_both_sides_take_every_turn(ready: RunConfig) -> None:
    found = orchestration.rollouts_against_verifiers(ready)
    assert isinstance(found, Ratio) and min(found.numerator.value, found.denominator.value) > 0
    assert found.conditions["rollouts"] == 4
