"""The groups of settings of what is asked, of the agent and its sandbox, and of the study: defaults, bounds and a
sentence for each."""

from typing import Literal, Self

from pydantic import Field, PositiveInt, model_validator

from biomni_lib.section import Section, later, require


class DataConfig(Section):
    """The tasks, and the simulated patients of two of them; every count is per task."""

    tasks: tuple[str, ...] = Field(
        ("rare_disease_diagnosis", "patient_gene_detection"),
        min_length=1,
        description="Tasks that are trained on and evaluated; those whose data are not built are left out by name.",
    )
    train_instances: int = Field(2000, ge=1, description="Training instances per task.")
    dev_instances: int = Field(300, ge=1, description="Development instances per task, for tuning.")
    heldout_instances: int = Field(300, ge=1, description="Held-out instances per task, opened once, for the results.")
    terms_min: int = Field(5, ge=1, description="Fewest phenotype terms of a patient, noise terms included.")
    terms_max: int = Field(5, ge=1, description="Most phenotype terms of a patient, noise terms included.")
    excluded_min: int = Field(2, ge=0, description="Fewest excluded findings told of a patient, if there are as many.")
    excluded_max: int = Field(2, ge=0, description="Most excluded findings told of a patient.")
    imprecision: float = Field(0.4, ge=0, le=1, description="Chance that a term is replaced by one of its ancestors.")
    noise_terms_max: int = Field(
        1, ge=0, description="Most of a patient's terms that have nothing to do with the disease."
    )
    candidates: int = Field(6, ge=2, description="Candidate genes shown, the right one included.")
    names: bool = Field(
        False, description="Whether questions on the lake name genes, diseases and terms beside their ids."
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        require(
            self.terms_min <= self.terms_max,
            f"data.terms_min = {self.terms_min}",
            f"must be at most data.terms_max = {self.terms_max}",
        )
        require(
            self.excluded_min <= self.excluded_max,
            f"data.excluded_min = {self.excluded_min}",
            f"must be at most data.excluded_max = {self.excluded_max}",
        )
        return self


class PromptConfig(Section):
    """What the agent is told before its task."""

    tools: Literal["names", "signatures", "docs"] = Field(
        "names", description="How much of each tool the prompt shows."
    )
    biomni_tools: tuple[str, ...] = later(
        (),
        description="Fields of the official package `biomni`, such as `genetics`, whose functions the prompt lists "
        "too; the package has to be installed.",
    )


class AgentConfig(Section):
    """Limits of one trajectory."""

    max_turns: int = Field(6, ge=1, description="Most assistant turns.")
    max_turn_tokens: int = Field(256, ge=8, description="Most tokens the model writes in one turn.")
    max_tokens: int = Field(1000, ge=32, description="Most tokens of a trajectory, prompt and observations included.")
    observation_chars: int = Field(
        1200, ge=16, description="Characters of an observation that the model sees; the rest is cut and said so."
    )
    turn_timeout_s: float = Field(60, gt=0, description="Seconds for one turn, generation and code together.")
    trajectory_timeout_s: float = Field(300, gt=0, description="Seconds for a whole trajectory.")


class SandboxConfig(Section):
    """Where the agent's code runs."""

    isolation: Literal["strict", "process"] = Field(
        "strict",
        description="`strict` is the strongest that this machine offers (namespaces, else Landlock, else a refusal); "
        "`process` a plain child process that protects nothing.",
    )
    sessions_max: int = Field(64, ge=1, description="Sessions open at the same time.")
    python_at_once: int = Field(64, ge=1, description="Blocks of Python that run at the same time; others queue.")
    shell_at_once: int = Field(8, ge=1, description="Blocks of shell or R that run at the same time; others queue.")
    execute_timeout_s: float = Field(10, gt=0, description="Seconds for one block of code.")
    memory_mb: int = Field(512, ge=64, description="Memory of one session in MiB.")
    tool_cache: bool = Field(True, description="Whether a session keeps the results of the tool calls it made.")
    output_chars: int = Field(4000, ge=16, description="Characters of output kept of one block of code.")


class EnvironmentConfig(Section):
    """Who runs the sandbox: this process, a server or Ray actors; and a server's own limits, which are an actor's too.

    Where code runs decides no number, so that no stage is run again when this changes.
    """

    url: str | None = Field(
        None,
        pattern=r"^(https?://|ray:)\S+$",
        description="`http://HOST:PORT` of an environment server, or `ray:ADDRESS` for actors on every node of a Ray "
        "cluster (`ray:local` starts one here); none for sessions of this process.",
    )
    running_max: int = Field(64, ge=1, description="Blocks of code that a server runs at the same time; more wait.")
    queue_max: int = Field(512, ge=0, description="Blocks of code that wait; one more is refused.")
    idle_s: float = Field(1800, gt=0, description="Seconds without a call after which a session is closed.")
    lease_s: float = Field(
        180, gt=0, description="The same for sessions of a client that says by itself, every quarter, that it lives."
    )
    body_max_kb: int = Field(1024, ge=1, description="Largest body of a request in KiB.")
    heartbeat_s: float = Field(5, gt=0, description="Seconds between signs of life while a block waits or runs.")
    patience_s: float = Field(
        600, ge=0, description="Seconds that a client waits for a place, or for a server that restarts."
    )


class EvaluateConfig(Section):
    """Evaluation on the held-out split."""

    instances: int = Field(150, ge=1, description="Held-out instances per task, or all where there are fewer.")
    samples: int = Field(1, ge=1, description="Trajectories per instance.")
    temperature: float = Field(0.6, ge=0, description="Sampling temperature; 0 is greedy.")
    bootstrap: int = Field(2000, ge=10, description="Resamples behind each interval.")


class LengthConfig(Section):
    """The experiment of notebook 05: the same instances answered under budgets."""

    instances: int = Field(
        40,
        ge=1,
        description="Held-out instances per task that are answered under each budget, if as many are evaluated.",
    )
    turns: tuple[PositiveInt, ...] = Field(
        (1, 2, 3), description="Budgets of turns; after each the agent is told to answer and has one turn more."
    )
    tokens: tuple[PositiveInt, ...] = Field(
        (64, 128, 192), description="Budgets of tokens that the model writes; the same follows."
    )

    @model_validator(mode="after")
    def _some(self) -> Self:
        require(bool(self.turns or self.tokens), "length.turns = ()", "name a budget there or in length.tokens")
        return self


class SchedulingConfig(Section):
    """The simulated runs of notebook 06."""

    steps: int = Field(24, ge=3, description="Learner steps of a simulated run.")
    tool_ratio: float = Field(
        1.0, ge=0, description="Median latency of a simulated tool, in recorded generation times of a turn."
    )
    engines_max: int = Field(1000, ge=8, description="Most engines of a simulated run.")
    agents_per_engine: int = Field(100, ge=1, description="Trajectories under way for each of so many engines.")
    scale_steps: int = Field(4, ge=3, description="Learner steps of the runs with many engines.")


class AblationsConfig(Section):
    """The runs of `make ablations`, each the RL run with one thing changed."""

    steps: int = Field(12, ge=2, description="Learner steps of a run.")
    groups_per_step: int = Field(8, ge=1, description="Groups per learner step.")
    instances: int = Field(
        100, ge=1, description="Development instances per task that each trained model answers, if there are as many."
    )


class TrackingConfig(Section):
    """Where metrics go beside the run folder."""

    wandb: bool = Field(False, description="Also write a Weights & Biases run; offline unless WANDB_API_KEY is set.")
