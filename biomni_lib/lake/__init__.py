"""The ground: real data with source, version, licence and checksum (`build_lake`, `Lake`)."""

from biomni_lib.lake.build import build_lake
from biomni_lib.lake.manifest import LakeManifest, gold_dir, lake_version, read_lake_manifest
from biomni_lib.lake.store import Lake

__all__ = ["Lake", "LakeManifest", "build_lake", "gold_dir", "lake_version", "read_lake_manifest"]
