"""Where a run keeps what, below `config.run_dir`."""

from dataclasses import dataclass
from pathlib import Path

from biomni_lib.config import RunConfig


@dataclass(frozen=True)
class Paths:
    """The files and folders of one run; `run_dir` is its folder.

    `base` is the untrained model, `sft_model` and `rl_model` the trained ones, each with its tokenizer; `sft_best` is
    SFT on the teacher's best strategy alone and need not be there.
    """

    run_dir: Path

    @property
    def data(self) -> Path:
        return self.run_dir / "data"

    def instances(self, split: str) -> Path:
        """The instances of a split: task, id, prompt, gold, meta (JSON)."""
        return self.data / f"{split}.parquet"

    @property
    def sft(self) -> Path:
        return self.run_dir / "sft"

    @property
    def teacher(self) -> Path:
        """Every trajectory that the teacher sampled."""
        return self.sft / "teacher.parquet"

    @property
    def teacher_best(self) -> Path:
        """Every trajectory that the teacher's best strategy sampled."""
        return self.sft / "teacher-best.parquet"

    @property
    def accepted(self) -> Path:
        """The trajectories that SFT learns from."""
        return self.sft / "accepted.parquet"

    @property
    def acceptance(self) -> Path:
        """Acceptance by task and strategy, CSV."""
        return self.sft / "acceptance.csv"

    @property
    def base(self) -> Path:
        return self.sft / "base"

    @property
    def pretrained(self) -> Path:
        """The model that has learned to copy identifiers and nothing else."""
        return self.sft / "pretrained"

    @property
    def sft_model(self) -> Path:
        return self.sft / "model"

    @property
    def sft_best(self) -> Path:
        return self.sft / "model-best-strategy"

    @property
    def sft_metrics(self) -> Path:
        return self.sft / "metrics" / "model.jsonl"

    @property
    def rl(self) -> Path:
        """Checkpoints, metrics, trajectories and ledgers of the RL run."""
        return self.run_dir / "rl"

    @property
    def rl_model(self) -> Path:
        return self.rl / "model"

    @property
    def rl_metrics(self) -> Path:
        return self.rl / "metrics" / "rl.jsonl"

    @property
    def evaluate(self) -> Path:
        """Rows and trajectories of every model on the held-out instances."""
        return self.run_dir / "evaluate"

    @property
    def models(self) -> Path:
        """What the command `evaluate` asked: rows, trajectories and tables, a folder each choice of questions."""
        return self.run_dir / "models"

    @property
    def length(self) -> Path:
        return self.run_dir / "length"

    @property
    def scheduling(self) -> Path:
        """What simulated runs say, CSV."""
        return self.run_dir / "scheduling"

    @property
    def ablations(self) -> Path:
        """Runs that leave one thing out, a folder each."""
        return self.run_dir / "ablations"

    @property
    def figures(self) -> Path:
        return self.run_dir / "figures"

    @property
    def viewer(self) -> Path:
        """The page of the run's trajectories."""
        return self.run_dir / "viewer.html"

    @property
    def notebooks(self) -> Path:
        """The executed notebooks."""
        return self.run_dir / "notebooks"

    @property
    def manifests(self) -> Path:
        return self.run_dir / "manifests"


def paths(config: RunConfig) -> Paths:
    """The paths of a run."""
    return Paths(config.run_dir)
