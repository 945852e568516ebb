"""Three seeds of a preset: everything that training draws differs, the held-out instances do not.

The pooled rows are published in `results/` and shown by notebook 04. A seed that is done is not run again.
"""

import pandas as pd

from biomni_lib.analysis import check_targets, seed_table
from biomni_lib.config import RunConfig
from biomni_lib.provenance import file_sha256, manifest_path
from biomni_lib.stages.results import publish_seeds, published_seeds, seeds_file, with_seed
from biomni_lib.stages.runner import run_notebooks

SEEDS = (0, 1, 2)


def run(config: RunConfig) -> pd.DataFrame:
    """Run every seed that is not done, publish the pooled rows, bring the first seed's notebook 04 up to date with
    them, and report.

    Args:
        config: of any seed.
    Returns: the pooled rows.
    Raises: RunError of the stage that failed; a later call goes on there.
    """
    for seed in SEEDS:
        run_notebooks(with_seed(config, seed), last="evaluate")
    first, file = with_seed(config, SEEDS[0]), seeds_file(config)
    before = file_sha256(file) if published_seeds(config) else None
    rows = publish_seeds(config, SEEDS)
    if file_sha256(file) != before:
        manifest_path(first, "evaluate").unlink()
    run_notebooks(first)
    print(seed_table(rows).round(3).to_string(index=False))
    print(check_targets(rows, draws=config.evaluate.bootstrap).round(3).to_string(index=False))
    print(f"pooled rows of seeds {', '.join(map(str, SEEDS))}: {file}")
    return rows
