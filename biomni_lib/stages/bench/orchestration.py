"""The rollout loop against that of `verifiers`: turns a second through one server that answers at once.

512 conversations of five turns run at once on each side: four blocks whose observation is there at once, then the
answer. So what is measured is orchestration alone. Both clients are processes of their own on one core, and the server
has another where there is one. Ours carries what it always does: token ids, log-probs, versions, the ledger; the
`verifiers` client asks for text.
"""

import contextlib
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from biomni_lib.agent.chat import ChatRenderer
from biomni_lib.agent.prompt import system_prompt
from biomni_lib.config import RunConfig
from biomni_lib.errors import RunError
from biomni_lib.stages import loadtest
from biomni_lib.stages.bench.measured import Missing, Peer, Ratio, Reading, Side, conditions, take_turns
from biomni_lib.stages.bench.peer_environment import peer_python, peer_version
from biomni_lib.stages.bench.processes import ClientProcess, available_cores, pin
from biomni_lib.stages.build_data import load_instances
from biomni_lib.stages.loadtest.job import Job
from biomni_lib.stages.loadtest.mock_server import Program, Token, mock_server
from biomni_lib.stages.paths import paths

ROLLOUTS, ROUNDS = 512, 5
PEER = "verifiers"
OURS, IN_PROCESS, THEIRS = (
    "rollout through OpenAIEngine",
    "rollout without HTTP",
    "verifiers, its harness a loop in the same process",
)
THOUGHT = "<think>\nThe phenotypes are compared with each candidate in turn, the most specific first.\n</think>\n"
BLOCK = "<execute>\nscores = {gene: match_score(terms, gene) for gene in candidates}\nprint(scores)\n</execute>"
ANSWER = "<solution>ENSG00000157764</solution>"
TURNS = (*[THOUGHT + BLOCK] * 4, THOUGHT + ANSWER)
OBSERVATION = "{'ENSG00000157764': 0.82, 'ENSG00000141510': 0.31}"
_LOGPROB = -0.125


def rollouts_against_verifiers(config: RunConfig) -> Ratio | Reading:
    """Turns a second of both; our number alone where `verifiers` cannot be installed."""
    try:
        peer: Path | Missing = peer_python(PEER, config.lake_dir.parent / "peers")
    except RunError as error:
        peer = Missing(PEER, str(error))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        prompts = [instance.prompt for instance in load_instances(config, "train")]
        job_file = write_job(Path(folder), prompts, system_prompt(config.prompt.tools), paths(config).sft_model)
        with clients(job_file, peer) as running:
            seconds = take_turns({name: client.seconds for name, client in running.items()}, ROUNDS)
            return measured(config, running, seconds, peer)


def write_job(folder: Path, prompts: Sequence[str], system: str, model_dir: Path) -> Path:
    """The job and the server's program as files, in the tokens of a model folder; prompts are used in turn."""
    renderer = ChatRenderer.load(model_dir)
    turns = [[Token(id, renderer.decode([id]), _LOGPROB) for id in renderer.assistant(text)] for text in TURNS]
    program_file, job_file = folder / "program.json", folder / "job.json"
    Program(tuple(map(tuple, turns)), renderer.prompt("", "")[0]).save(program_file)
    chosen = [prompts[number % len(prompts)] for number in range(ROLLOUTS)]
    Job(chosen, system, OBSERVATION, len(TURNS), str(model_dir), str(program_file)).save(job_file)
    return job_file


@contextlib.contextmanager
def clients(job_file: Path, peer: Path | Missing) -> Iterator[dict[str, ClientProcess]]:
    """The server and its clients by name, for the block."""
    cores = available_cores()
    program_file = Path(Job.load(job_file).program_file)
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(mock_server(program_file))
        pin(server.pid, cores[-1])
        ours = [sys.executable, "-m", f"{loadtest.__name__}.rollouts", str(job_file)]
        commands = {OURS: [*ours, server.url], IN_PROCESS: ours}
        if isinstance(peer, Path):
            script = Path(loadtest.__path__[0]) / "verifiers_rollouts.py"
            commands[THEIRS] = [str(peer), "-P", str(script), str(job_file), server.url]
        yield {
            name: stack.enter_context(contextlib.closing(ClientProcess(command, cores[0])))
            for name, command in commands.items()
        }


def measured(
    config: RunConfig, running: dict[str, ClientProcess], seconds: dict[str, float], peer: Path | Missing
) -> Ratio | Reading:
    """What the rounds of the clients gave, every side by its name."""
    rates = {name: Side(name, "turns per second", running[name].done / s) for name, s in seconds.items()}
    beside: list[Peer] = [rates[IN_PROCESS]]
    beside += [
        Side(f"{name}, one core", "ms of processor a turn", 1e3 * client.cpu_s) for name, client in running.items()
    ]
    beside += [Side(f"{name}, peak", "MB", client.peak_mb) for name, client in running.items()]
    cores = available_cores()
    told = {
        **conditions(config),
        "rollouts": ROLLOUTS,
        "turns": len(TURNS),
        "client_core": cores[0],
        "server_core": cores[-1],
    }
    if isinstance(peer, Missing):
        return Reading(rates[OURS], told, (*beside, peer))
    told[PEER] = peer_version(PEER)
    return Ratio(rates[OURS], rates[THEIRS], told, tuple(beside))
