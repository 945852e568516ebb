"""A finished run's results into `results/`, to be committed: what readers, the paper and `make verify` stand on."""

import json
from pathlib import Path

from biomni_lib.config import RunConfig, project_root
from biomni_lib.errors import DataError
from biomni_lib.provenance import atomic_write
from biomni_lib.stages import budgets
from biomni_lib.stages.cards import data_card, data_card_file, model_card, model_card_file
from biomni_lib.stages.drawings import save_drawings
from biomni_lib.stages.evaluate import drawings
from biomni_lib.stages.gallery import write_gallery
from biomni_lib.stages.paths import paths
from biomni_lib.stages.results import FROM_RUN, figures_dir, publish_budgets, summary_file
from biomni_lib.stages.summary import summary, with_results


def publish(config: RunConfig) -> list[Path]:
    """Write the summary, the answers under budgets, the figures that readers are shown, their gallery and both cards to
    `results/`.

    Returns: the files. Raises: RunError when a stage has not finished, DataError when a figure of the run is not whole.
    """
    found = summary(config)
    written = {
        model_card_file(config): model_card(config, found),
        data_card_file(config): data_card(config),
    }
    atomic_write(summary_file(config), json.dumps(found, indent=1) + "\n")
    answers = _answers_under_budgets(config)
    folder = figures_dir(config)
    save_drawings(drawings(config), folder)
    for name in FROM_RUN:
        _take_over(paths(config).figures, folder, name)
    write_gallery(folder, preset=config.preset, seed=config.seed)
    for file, text in written.items():
        atomic_write(file, text)
    readme = project_root() / "README.md"
    atomic_write(readme, with_results(readme.read_text(encoding="utf-8"), found))
    return [summary_file(config), *answers, readme, *written, *sorted(folder.iterdir())]


def _answers_under_budgets(config: RunConfig) -> list[Path]:
    """Publish them where the run has them."""
    if not budgets.budgets_file(config).is_file():
        print("answers under budgets not published: the run has none (notebook 05_length_vs_score)")
        return []
    return [publish_budgets(config, budgets.budget_rows(config))]


def _take_over(source: Path, folder: Path, name: str) -> None:
    """Copy a figure that the run drew, with all its files; nothing where the run has not drawn it."""
    if not (source / f"{name}.svg").is_file():
        print(f"figure {name} not published: the run has none (make figures)")
        return
    for kind in ("pdf", "svg", "png", "csv", "txt"):
        file = source / f"{name}.{kind}"
        if not file.is_file():
            raise DataError(f"{file} is missing beside its figure; draw it again (make figures)")
        atomic_write(folder / file.name, file.read_bytes())
