"""The groups of settings of the model, of who generates, of the teacher, of training and of where it runs: defaults,
bounds and a sentence for each; and where recipes lie. The other groups are in `biomni_lib.world_settings`."""

import tomllib
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, model_validator

from biomni_lib.errors import ConfigError
from biomni_lib.section import Section, later, require

RECIPES_DIR = Path(__file__).parent / "rl" / "recipes"
UNCORRECTED = "none"
"""The `correction` of an RL recipe that is synchronous by its definition: it takes every sample for a fresh one."""
IGNORED = "ignored"
"""The same for a recipe that is allowed stale samples all the same, to measure what a correction buys."""


def project_root() -> Path:
    """The folder that holds the project: the checkout, or the working folder where the package is installed apart."""
    checkout = Path(__file__).resolve().parent.parent
    return checkout if (checkout / "pyproject.toml").is_file() else Path.cwd()


def recipe_names() -> list[str]:
    """Names of the shipped RL recipes, sorted."""
    return sorted(path.stem for path in RECIPES_DIR.glob("*.toml"))


def recipe_file(name: str) -> Path:
    """The file of an RL recipe: a shipped one by name, or a path ending in .toml (from the project's folder).

    Raises: ConfigError for an unknown name or a file that is not there.
    """
    path = project_root() / name if name.endswith(".toml") else RECIPES_DIR / f"{name}.toml"
    known = path.is_file() if name.endswith(".toml") else name in recipe_names()
    require(known, f"rl.recipe = {name!r}", f"unknown recipe; allowed: {', '.join(recipe_names())}, a .toml file")
    return path


def recipe_correction(name: str) -> str:
    """What a recipe's loss does about samples of an older policy, as its file says; checked in `rl.recipe`."""
    try:
        stated = tomllib.loads(recipe_file(name).read_text(encoding="utf-8"))
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"rl.recipe = {name!r}: not TOML: {error}") from None
    return str(stated.get("correction", UNCORRECTED))


class ModelConfig(Section):
    """The language model: a tiny Qwen3-architecture one trained from scratch, or a pretrained one."""

    kind: Literal["tiny", "pretrained"] = Field(
        "tiny", description="`tiny` is built from the sizes below, `pretrained` is read from `path`."
    )
    path: Path | None = Field(None, description="Folder of the pretrained model; only for kind `pretrained`.")
    package: str | None = later(
        None,
        description="Package, pinned in `environment/models/`, that the folder is made from where it is not there.",
    )
    repository: str | None = later(
        None,
        pattern=r"^[\w.-]+/[\w.-]+$",
        description="OWNER/NAME on the Hugging Face hub that the folder is fetched from where it is not there.",
    )
    revision: str | None = later(
        None, description="Branch, tag or commit of the repository; its branch main when not given."
    )
    hidden: int = Field(128, ge=8, description="Width of the residual stream.")
    layers: int = Field(3, ge=1, description="Number of transformer layers.")
    heads: int = Field(8, ge=1, description="Attention heads.")
    kv_heads: int = Field(4, ge=1, description="Heads of keys and values, shared by groups of attention heads.")
    head_dim: int = Field(
        32,
        ge=2,
        multiple_of=2,
        description="Width of a head; all together may be wider than `hidden`, as in Qwen3.",
    )
    intermediate: int = Field(256, ge=8, description="Width of the feed-forward layer.")
    vocab: int = Field(
        3072, ge=512, description="Vocabulary size of the tokenizer that is trained on the training split."
    )
    context: int = Field(1024, ge=64, description="Longest sequence in tokens, prompt included.")
    dtype: Literal["float32", "bfloat16"] = later(
        "float32", description="Numbers of the forward and backward pass; trained weights stay in float32."
    )
    yarn_factor: float | None = later(
        None, gt=1, description="YaRN's factor over the positions that the pretrained model knows; none leaves them."
    )
    yarn_positions: int | None = later(
        None,
        ge=1,
        description="Positions that the factor stretches: those the model was trained at; when not given, the "
        "`max_position_embeddings` of its configuration, which may be more.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        kv_heads = f"model.kv_heads = {self.kv_heads}"
        require(self.heads % self.kv_heads == 0, f"model.heads = {self.heads}", f"must be a multiple of {kv_heads}")
        if self.kind == "pretrained":
            require(self.path is not None, "model.kind = 'pretrained'", "needs model.path, the model's folder")
        else:
            require(self.path is None, f"model.path = '{self.path}'", "is only for model.kind = 'pretrained'")
            require(self.package is None, f"model.package = {self.package!r}", "is only for model.kind = 'pretrained'")
            repository = f"model.repository = {self.repository!r}"
            require(self.repository is None, repository, "is only for model.kind = 'pretrained'")
            yarn = f"model.yarn_factor = {self.yarn_factor}"
            require(self.yarn_factor is None, yarn, "is only for model.kind = 'pretrained'")
        one = self.package is None or self.repository is None
        require(one, f"model.repository = {self.repository!r}", f"leave it out beside model.package = {self.package!r}")
        known = self.revision is None or self.repository is not None
        require(known, f"model.revision = {self.revision!r}", "needs model.repository")
        return self


class EngineConfig(Section):
    """Who generates tokens."""

    kind: Literal["transformers", "vllm"] = Field("transformers", description="Engine that serves the rollouts.")
    slots: int = Field(64, ge=1, description="Trajectories decoded together.")
    parked: int = Field(
        192, ge=0, description="Conversations in their tools whose KV cache is put aside while others use their slots."
    )
    threads: int = Field(1, ge=1, description="Threads of the engine's arithmetic.")
    prefill_chunk: int = Field(
        128, ge=8, description="Tokens read at once when a prompt or an observation enters a slot."
    )
    kv_cache_gb: float | None = Field(
        None,
        gt=0,
        description="GiB of vLLM's KV cache; when not given, on CPU what slots and parked conversations need at full "
        "length, on a GPU what vLLM takes by itself.",
    )
    parity_max: float = Field(
        1e-2,
        gt=0,
        description="Largest difference in log-probability between engine and learner on the same tokens, in bfloat16 "
        "largest mean of the differences; beyond it an RL run stops. In float32 they differ by 1e-5, in bfloat16 by "
        "up to 0.05 (set 0.1), a stale weight by 1e-1 and more.",
    )


class TeacherConfig(Section):
    """Who the teacher is, and what is kept of its trajectories."""

    engine: Literal["scripted", "openai", "anthropic"] = later(
        "scripted",
        description="`scripted` is a program, `openai` any OpenAI-compatible endpoint, `anthropic` Anthropic's.",
    )
    model: str | None = later(None, description="The model's name at the endpoint; none for the scripted teacher.")

    instances: int = Field(800, ge=1, description="Training instances per task that the teacher tries.")
    samples_per_instance: int = Field(3, ge=1, description="Trajectories sampled per instance.")
    cap_per_instance: int = Field(2, ge=1, description="Most accepted trajectories kept per instance.")

    @model_validator(mode="after")
    def _named(self) -> Self:
        engine, model = f"teacher.engine = {self.engine!r}", f"teacher.model = {self.model!r}"
        if self.engine == "scripted":
            require(self.model is None, model, "is only for teacher.engine 'openai' and 'anthropic'")
        else:
            require(bool(self.model), engine, "needs teacher.model, the model's name at the endpoint")
        return self


class ApiConfig(Section):
    """Endpoints that cost money: how much and how fast. Keys come from the environment alone.

    A provider's own endpoint reads OPENAI_API_KEY or ANTHROPIC_API_KEY, another server BIOMNI_API_KEY if it is set.
    """

    url: str | None = Field(
        None,
        pattern=r"^https?://\S+$",
        description="Base URL of another server, such as vLLM's `http://HOST:PORT/v1` (without `/v1` where it is asked "
        "as Anthropic's); none for the provider's own.",
    )
    prices: Path | None = Field(
        None,
        description="TOML file with USD per million tokens by model; a provider's own endpoint is not asked without.",
    )
    spend_max_usd: float = Field(20.0, gt=0, description="Most USD that a run spends, all its starts together.")
    requests_per_minute: int | None = Field(None, ge=1, description="Most requests a minute; none for no limit.")
    tokens_per_minute: int | None = Field(None, ge=1, description="Most tokens a minute, read and written together.")
    concurrency: int = Field(16, ge=1, description="Trajectories under way at once.")
    retries: int = Field(
        6, ge=0, description="Attempts after a first that failed or was refused for the moment, with growing pauses."
    )
    timeout_s: float = Field(600, gt=0, description="Seconds for one attempt.")


class PlacementConfig(Section):
    """Where engines and sandboxes run, and which cards do what; the plan (`make plan`) adds the cards up.

    Where things run decides no number, so that no stage is run again when this changes.
    """

    kind: Literal["local", "ray"] = later(
        "local", description="`local` has one engine in the run's own processes, `ray` any number as Ray actors."
    )
    address: str | None = later(
        None,
        pattern=r"^[^/\s]+$",
        description="`auto` or `HOST:PORT` of the Ray cluster; none starts one on this machine.",
    )
    sandbox_hosts: int = later(
        0,
        ge=0,
        description="Sandboxes as Ray actors, spread over the nodes, each of sandbox.sessions_max sessions; 0 leaves "
        "code to run where environment.url says.",
    )
    engines: int = Field(1, ge=1, description="Engines, each on `tensor_parallel` cards of one node.")
    tensor_parallel: int = Field(1, ge=1, description="Cards that share one engine's weights and KV cache.")
    learner_ranks: int = Field(1, ge=1, description="Cards that share the learner's weights and optimizer.")
    context_parallel: int = Field(1, ge=1, description="Of these, how many read one sequence together.")
    learner_offload: bool = later(
        False, description="Whether the ranks' weights, gradients and optimizer rest in the host's memory."
    )
    share: Literal["apart", "together", "turns"] = Field(
        "apart",
        description="Engines and learner on cards of their own (`apart`), on the same ones at once (`together`), or on "
        "the same ones with the engine asleep while the learner works (`turns`).",
    )

    @model_validator(mode="after")
    def _divided(self) -> Self:
        ranks = f"placement.learner_ranks = {self.learner_ranks}"
        rule = f"must be a multiple of placement.context_parallel = {self.context_parallel}"
        require(self.learner_ranks % self.context_parallel == 0, ranks, rule)
        offload = f"placement.learner_offload = {self.learner_offload}"
        require(not self.learner_offload or self.learner_ranks > 1, offload, "needs placement.learner_ranks above 1")
        return self

    def check_heads(self, heads: int, kv_heads: int) -> None:
        """Whether ranks that read a sequence together can share a model's attention heads, and those of its keys.

        Raises: ConfigError when they cannot.
        """
        fitting = [n for n in range(1, heads + 1) if heads % n == 0 and (kv_heads % n == 0 or n % kv_heads == 0)]
        parted = f"the model's {heads} attention heads, {kv_heads} of keys and values, are not divided by it"
        known = self.context_parallel in fitting
        require(known, f"placement.context_parallel = {self.context_parallel}", f"{parted}; set one of {fitting}")

    @model_validator(mode="after")
    def _on_ray(self) -> Self:
        if self.kind == "local":
            needs = "needs placement.kind = 'ray'"
            require(self.engines == 1, f"placement.engines = {self.engines}", needs)
            require(self.address is None, f"placement.address = {self.address!r}", needs)
            require(self.sandbox_hosts == 0, f"placement.sandbox_hosts = {self.sandbox_hosts}", needs)
        return self


class SftConfig(Section):
    """Supervised fine-tuning on accepted trajectories."""

    epochs: int = Field(1, ge=1, description="Passes over the accepted trajectories.")
    batch_size: int = Field(16, ge=1, description="Trajectories per optimizer step.")
    lr_muon: float = Field(0.01, gt=0, description="Learning rate of Muon, which trains the matrices.")
    lr_adamw: float = Field(3e-3, gt=0, description="Learning rate of AdamW, which trains everything else.")
    warmup_steps: int = Field(20, ge=0, description="Steps over which the learning rates rise from zero.")
    threads: int = Field(2, ge=1, description="Threads of the training arithmetic.")
    optimizer: Literal["adamw", "muon"] = later(
        "muon", description="`muon` trains the hidden matrices with Muon and the rest with AdamW; `adamw` everything."
    )
    lora_rank: int | None = later(None, ge=1, description="Rank of a LoRA adapter that is trained, and then merged.")
    lora_alpha: int = later(32, ge=1, description="The adapter's product counts lora_alpha / lora_rank.")
    micro_batch_tokens: int | None = later(
        None, ge=32, description="Most tokens of a row of trajectories laid end to end; none pads four of like length."
    )
    gradient_checkpointing: bool = later(False, description="As rl.gradient_checkpointing.")

    @model_validator(mode="after")
    def _adapted(self) -> Self:
        rule = "is for whole matrices, which an adapter's factors are not; set 'adamw' beside sft.lora_rank"
        require(self.optimizer == "adamw" or self.lora_rank is None, f"sft.optimizer = {self.optimizer!r}", rule)
        return self


class PretrainingConfig(Section):
    """Teaching a model from scratch to copy identifiers; a pretrained model skips it."""

    documents: int = Field(9000, ge=1, description="Short documents of identifiers, each seen once.")
    batch_size: int = Field(8, ge=1, description="Documents per optimizer step.")
    lr_muon: float = Field(0.02, gt=0, description="Learning rate of Muon; everything else is as in fine-tuning.")

    def training(self, sft: SftConfig) -> SftConfig:
        """The settings of this training: those of fine-tuning, with one pass and what is set here."""
        return sft.model_copy(update={"epochs": 1, "batch_size": self.batch_size, "lr_muon": self.lr_muon})


class RlConfig(Section):
    """Asynchronous reinforcement learning."""

    recipe: str = Field(
        "default",
        description="Loss, correction and advantage: a recipe's name (default is ours), or the path of a TOML file.",
    )
    steps: int = Field(26, ge=1, description="Learner steps.")
    groups_per_step: int = Field(16, ge=1, description="Groups, one instance each, per learner step.")
    group_size: int = Field(8, ge=2, description="Trajectories per group.")
    max_staleness: int = Field(
        1, ge=0, description="Most learner versions between sampling a token and training on it; 0 is synchronous."
    )
    optimizer: Literal["adamw", "muon"] = Field(
        "adamw", description="`muon` trains the hidden matrices with Muon and the rest with AdamW; `adamw` everything."
    )
    learning_rate: float = Field(3e-4, gt=0, description="Learning rate of AdamW.")
    lr_muon: float = Field(2e-3, gt=0, description="Learning rate of Muon, where rl.optimizer is `muon`.")
    warmup_steps: int = Field(0, ge=0, description="Learner steps over which the learning rates rise from zero.")
    lora_rank: int | None = Field(
        None, ge=1, description="Rank of a LoRA adapter that is trained in place of the weights; none trains them all."
    )
    lora_alpha: int = Field(32, ge=1, description="The adapter's product counts lora_alpha / lora_rank.")
    temperature: float = Field(1.0, gt=0, description="Sampling temperature of the rollouts.")
    grad_clip: float = Field(1.0, gt=0, description="Largest norm of the gradient.")
    micro_batch_tokens: int = Field(
        8192, ge=32, description="Most tokens, of trajectories laid end to end, of one forward and backward pass."
    )
    gradient_checkpointing: bool = Field(
        False, description="Whether layers are computed again in the backward pass, which saves memory and costs time."
    )
    agents: int | None = Field(
        None, ge=1, description="Trajectories under way at once; as many as the engine has slots when not given."
    )
    replace_members: int = Field(
        1, ge=0, description="Failed members of a group rolled out anew before the group is lost; 0 loses it at once."
    )
    kv_on_update: Literal["keep", "recompute"] = Field(
        "keep", description="What becomes of the KV cache of trajectories under way when new weights arrive."
    )
    checkpoint_every: int = Field(5, ge=1, description="Steps between checkpoints.")
    threads: int = Field(1, ge=1, description="Threads of the learner's arithmetic.")

    @model_validator(mode="after")
    def _corrected(self) -> Self:
        correcting = [name for name in recipe_names() if recipe_correction(name) not in (UNCORRECTED, IGNORED)]
        require(
            recipe_correction(self.recipe) != UNCORRECTED or self.max_staleness == 0,
            f"rl.max_staleness = {self.max_staleness}",
            f"rl.recipe = {self.recipe!r} does not correct for stale samples; set 0, or a recipe that does: "
            + ", ".join(correcting),
        )
        return self
