"""The audit of a run, written down; and the guard of every way to a benchmark's score.

A score on Eval1 says something of a model only when its training data were compared with Eval1 and share nothing. The
record keeps the sha256 of the instances compared, so that an audit of other data, or of data that changed since, does
not count; and a digest of the benchmark, so that one of another file does not.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from biomni_lib.config import RunConfig
from biomni_lib.errors import RunError
from biomni_lib.provenance import file_sha256, read_manifest
from biomni_lib.tasks.base import Instance
from biomni_lib.tasks.leaks.at_hand import REMEDY
from biomni_lib.tasks.leaks.compare import BENCHMARKS, LEAK, NOT_AUDITED

TRAINED_ON = ("train", "dev")
TRAINING_STAGES = ("sft", "rl")


class AuditRecord(BaseModel):
    """What an audit found."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    preset: str = Field(description="Name of the preset.")
    seed: int = Field(description="Root of the run's randomness.")
    instances: dict[str, str] = Field(description="sha256 of the run's saved instances, by split; {} when not saved.")
    benchmarks: dict[str, str] = Field(description="Digest of each benchmark compared with, or NOT AUDITED.")
    skipped: dict[str, str] = Field(description="Tasks left out, each with the reason and the remedy.")
    findings: list[dict[str, Any]] = Field(description="One a task, pair of splits and sort of identifier; `Finding`.")
    one_call: list[dict[str, Any]] = Field(description="The best single call of each task on held-out instances.")
    finished: str = Field(description="When, UTC.")

    def leaks(self, other: str | None = None) -> list[dict[str, Any]]:
        """Findings that are leaks; only those against one split or benchmark where it is named."""
        return [one for one in self.findings if one["status"] == LEAK and other in (None, one["other"])]


def audit_file(config: RunConfig) -> Path:
    """Where a run's audit lies."""
    return config.run_dir / "audit" / "audit.json"


def digest(instances: Iterable[Instance]) -> str:
    """sha256 over the questions and answers of a benchmark, in any order."""
    told = sorted([one.id, one.prompt, one.gold] for one in instances)
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def saved_sha256(config: RunConfig, splits: Iterable[str]) -> dict[str, str]:
    """sha256 of the run's saved instances, by split; those that are not saved are left out."""
    files = {split: config.run_dir / "data" / f"{split}.parquet" for split in splits}
    return {split: file_sha256(path) for split, path in files.items() if path.is_file()}


def read_audit(config: RunConfig) -> AuditRecord | None:
    """A run's audit, or None when there is none. Raises: RunError when the file is there and cannot be read."""
    path = audit_file(config)
    if not path.is_file():
        return None
    try:
        return AuditRecord.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise RunError(f"{path}: no readable audit ({error.error_count()} faults); {_again(config)}") from None


def require_audited(config: RunConfig, instances: Iterable[Instance]) -> None:
    """Refuse a benchmark's instances to a run whose training data were not shown to be apart from it.

    Args:
        instances: about to be asked; those that are of no benchmark pass.
    Raises: RunError that names the benchmark and what is missing: no audit, one without the benchmark, one that found a
        leak, or one of other training data than the run's models learned from.
    """
    asked = {name for name in BENCHMARKS if any(one.id.startswith(f"{name}/") for one in instances)}
    for name in sorted(asked):
        if why := _unfit(config, name):
            raise RunError(f"no {name} score is reported for {config.run_dir.name}: {why}")


def require_same(config: RunConfig, name: str, instances: Iterable[Instance]) -> None:
    """Refuse a benchmark's file other than the one that was compared. Raises: RunError."""
    record = read_audit(config)
    if record is None or record.benchmarks.get(name) != digest(instances):
        raise RunError(f"{name}: these are not the questions that {audit_file(config)} compared; {_again(config)}")


def _unfit(config: RunConfig, benchmark: str) -> str:
    """Why an audit does not allow a benchmark's score; empty when it does."""
    record = read_audit(config)
    if record is None:
        return f"its training data were not audited; {REMEDY[benchmark]}, then {_again(config)}"
    if record.benchmarks.get(benchmark, NOT_AUDITED) == NOT_AUDITED:
        return f"{NOT_AUDITED} against it; {REMEDY[benchmark]}, then {_again(config)}"
    if leaks := record.leaks(benchmark):
        return f"{told(leaks[0])}; build the data again with {benchmark} at hand, train, then {_again(config)}"
    if set(record.instances) < set(TRAINED_ON) or saved_sha256(config, TRAINED_ON) != _only(record.instances):
        return f"the audit is of other training data than those in {config.run_dir / 'data'}; {_again(config)}"
    for stage in TRAINING_STAGES:
        manifest = read_manifest(config, stage)
        used = manifest.inputs.get(f"{config.run_dir.name}/data/train.parquet") if manifest else None
        if used and used != record.instances["train"]:
            return f"stage {stage} learned from other training data than were audited; run the stage again"
    return ""


def told(finding: Mapping[str, Any]) -> str:
    """A leak in one line."""
    return (
        f"{finding['task']}: {finding['one']} and {finding['other']} share {finding['shared']} of sort "
        f"{finding['sort']!r}, first {finding['example']}"
    )


def _only(instances: Mapping[str, str]) -> dict[str, str]:
    return {split: instances[split] for split in TRAINED_ON}


def _again(config: RunConfig) -> str:
    return f"make audit PRESET={config.preset}"
