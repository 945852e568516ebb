"""The shape of a decoder, and how many weights it has: what every other formula of the plan starts from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from biomni_lib.config import RunConfig, project_root
from biomni_lib.engines.hub_model import fetch_config
from biomni_lib.errors import ConfigError


@dataclasses.dataclass(frozen=True)
class Shape:
    """A decoder of Qwen3's or Llama's kind: grouped attention, a gated feed-forward layer, norms without bias.

    `qk_norm` says whether queries and keys are normalised, as Qwen3's are; `tied` whether the output projection is the
    embedding; `positions` how many the model was trained for, where that is known.
    """

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    tied: bool
    qk_norm: bool = True
    positions: int | None = None

    @property
    def query_width(self) -> int:
        """Width of all queries together."""
        return self.heads * self.head_dim

    @property
    def key_width(self) -> int:
        """Width of all keys together, and of all values."""
        return self.kv_heads * self.head_dim

    @property
    def layer_matrices(self) -> tuple[tuple[int, int], ...]:
        """(inputs, outputs) of a layer's seven linear maps: query, key, value, output, gate, up, down."""
        d, q, k, f = self.hidden, self.query_width, self.key_width, self.intermediate
        return (d, q), (d, k), (d, k), (q, d), (d, f), (d, f), (f, d)

    @property
    def layer_matrix_weights(self) -> int:
        """Weights of a layer's linear maps."""
        return sum(inputs * outputs for inputs, outputs in self.layer_matrices)

    @property
    def layer_weights(self) -> int:
        """Weights of one layer: its matrices and its norms."""
        return self.layer_matrix_weights + 2 * self.hidden + (2 * self.head_dim if self.qk_norm else 0)

    @property
    def embedding_weights(self) -> int:
        """Weights of the embedding, and of the output projection where that is another matrix."""
        return self.vocab * self.hidden * (1 if self.tied else 2)

    @property
    def weights(self) -> int:
        """All weights.

        Source: the modules of transformers' `modeling_qwen3` and `modeling_llama`.
        """
        return self.embedding_weights + self.layers * self.layer_weights + self.hidden

    def adapter_weights(self, rank: int) -> int:
        """Weights of a LoRA adapter on every linear map of the layers: rank * (inputs + outputs) each.

        Source: Hu et al. 2021, section 4.1.
        """
        return self.layers * sum(rank * (inputs + outputs) for inputs, outputs in self.layer_matrices)


KNOWN: Mapping[str, Shape] = {
    "Qwen3-8B": Shape(151_936, 4096, 36, 32, 8, 128, 12_288, tied=False, positions=40_960),
    "Qwen3-32B": Shape(151_936, 5120, 64, 64, 8, 128, 25_600, tied=False, positions=40_960),
    "SmolLM2-135M-Instruct": Shape(49_152, 576, 30, 9, 3, 64, 1536, tied=True, qk_norm=False, positions=8192),
}
"""Models that are planned for before they are fetched. Source: `config.json` of each on the Hugging Face hub."""


def shape_of(config: RunConfig) -> Shape:
    """The shape of a run's model: of the settings, of the model folder's `config.json`, of a known name, or of the hub.

    Raises: ConfigError for a pretrained model that is neither there nor known, or of another architecture; RunError
        when the hub that it is to be fetched from cannot be asked.
    """
    model = config.model
    if model.path is None:
        sizes = model.hidden, model.layers, model.heads, model.kv_heads, model.head_dim, model.intermediate
        return Shape(model.vocab, *sizes, tied=True, positions=model.context)
    told = project_root() / model.path / "config.json"
    if told.is_file():
        return read_shape(told)
    if model.path.name in KNOWN:
        return KNOWN[model.path.name]
    if model.repository is not None:
        return read_shape(fetch_config(model.repository, model.revision, told.parent))
    raise ConfigError(
        f"model.path = '{model.path}': no model there to read sizes from, and none that is known by name "
        f"({', '.join(KNOWN)}); put its Hugging Face folder there, or set model.repository"
    )


def read_shape(path: Path) -> Shape:
    """The shape that a Hugging Face `config.json` states. Raises: ConfigError for another architecture than two."""
    told: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    kind = told.get("model_type")
    if kind not in ("qwen3", "llama"):
        raise ConfigError(f"{path}: model_type = {kind!r}: the plan knows qwen3 and llama")
    heads = told["num_attention_heads"]
    return Shape(
        vocab=told["vocab_size"],
        hidden=told["hidden_size"],
        layers=told["num_hidden_layers"],
        heads=heads,
        kv_heads=told.get("num_key_value_heads") or heads,
        head_dim=told.get("head_dim") or told["hidden_size"] // heads,
        intermediate=told["intermediate_size"],
        tied=bool(told.get("tie_word_embeddings", False)),
        qk_norm=kind == "qwen3",
        positions=told.get("max_position_embeddings"),
    )
