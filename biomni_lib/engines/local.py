"""The engine that a run's settings name, for a model folder: in this process, or in Ray actors."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import TYPE_CHECKING

from biomni_lib.config import RunConfig
from biomni_lib.engines.base import KvOnUpdate

if TYPE_CHECKING:
    from biomni_lib.engines.ray_engine import RayEngines
    from biomni_lib.engines.transformers_engine import TransformersEngine
    from biomni_lib.engines.vllm_engine import VllmEngine

    LocalEngine = TransformersEngine | VllmEngine


def load_engine(
    config: RunConfig,
    model_dir: Path,
    *,
    parked: int = 0,
    kv_on_update: KvOnUpdate = "keep",
    adapter_rank: int | None = None,
) -> LocalEngine | RayEngines:
    """Start what serves a run, where `config.placement` says; called in a running event loop.

    Args, Raises: as `load_here`; on Ray, whose engines start in the background, calls raise what their start raises.
    """
    here = functools.partial(
        load_here, config, model_dir, parked=parked, kv_on_update=kv_on_update, adapter_rank=adapter_rank
    )
    if config.placement.kind == "local":
        return here()
    from biomni_lib.engines.ray_engine import start_on_ray

    return start_on_ray(config, model_dir, here)


def load_here(
    config: RunConfig,
    model_dir: Path,
    *,
    parked: int = 0,
    kv_on_update: KvOnUpdate = "keep",
    adapter_rank: int | None = None,
) -> LocalEngine:
    """Start the engine `config.engine.kind` for a model folder in this process.

    Args:
        parked: silent conversations whose KV cache is kept beside those in slots.
        kv_on_update: what new weights do to open conversations.
        adapter_rank: rank of the LoRA adapters that will come as weights; none where all weights come.
    Raises: EngineError when it does not start.
    """
    engine = config.engine
    if engine.kind == "vllm":
        from biomni_lib.engines.vllm_engine import VllmEngine

        return VllmEngine.load(
            model_dir,
            slots=engine.slots,
            context=config.model.context,
            dtype=config.model.dtype,
            threads=engine.threads,
            tensor_parallel=config.placement.tensor_parallel,
            places=engine.slots + parked,
            kv_cache_gb=engine.kv_cache_gb,
            adapter_rank=adapter_rank,
            kv_on_update=kv_on_update,
        )
    from biomni_lib.engines.transformers_engine import TransformersEngine

    return TransformersEngine.load(
        model_dir,
        slots=engine.slots,
        context=config.model.context,
        prefill_chunk=engine.prefill_chunk,
        parked=parked,
        kv_on_update=kv_on_update,
    )


def takes_adapters(config: RunConfig) -> bool:
    """Whether the run's engine is given a LoRA adapter's own weights, and not those merged with the model's."""
    return config.engine.kind == "vllm" and config.rl.lora_rank is not None
