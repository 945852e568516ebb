"""The ground: real data with source, version, licence and checksum (`build_lake`, `Lake`)."""

from biomni_lib.lake.build import LakeManifest, build_lake
from biomni_lib.lake.store import Lake, read_lake_manifest

__all__ = ["Lake", "LakeManifest", "build_lake", "read_lake_manifest"]
