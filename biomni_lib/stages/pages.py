"""The pages that were made from published results, made again: are they the same bytes?

The README's block, the gallery and the paper follow from `results/` alone. The cards follow from a run's settings,
manifests and data; two parts of the model card tell of the published run itself and are compared for that run only.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from biomni_lib.config import RunConfig, project_root
from biomni_lib.errors import BiomniError
from biomni_lib.stages import paper
from biomni_lib.stages.cards import OF_ONE_RUN, data_card, data_card_file, model_card, model_card_file
from biomni_lib.stages.gallery import PAGE, gallery
from biomni_lib.stages.results import figures_dir, results_dir
from biomni_lib.stages.summary import with_results

HEADING, TITLE = "\n## ", "the title"
PUBLISHED_SEED = 0
"""Of the run whose results are published."""


class Check(NamedTuple):
    """One comparison: what was looked at, what was found, what it had to be, whether it was; and how to mend it."""

    what: str
    found: str
    wanted: str
    met: bool
    remedy: str = ""


def check_pages(config: RunConfig, published: dict[str, Any], *, of_this_run: bool) -> Iterator[Check]:
    """Every page made from a preset's published results, beside the page made again.

    Args:
        published: the published summary. of_this_run: whether it is that of the run's own folder.
    """
    again = f"python -m biomni_lib.stages publish --preset {config.preset}, or restore the file from the repository"
    readme, shown = project_root() / "README.md", figures_dir(config)
    if readme.is_file() and f"figures-{config.preset}/" in (text := readme.read_text(encoding="utf-8")):
        yield _same("README.md, block of results", text, lambda: with_results(text, published), again)
    page = _read(shown / PAGE)
    yield _same(_named(shown / PAGE), page, lambda: gallery(shown, preset=config.preset, seed=PUBLISHED_SEED), again)
    yield _paper(config, again)
    run_only = () if of_this_run else (TITLE, *OF_ONE_RUN)
    yield _card(model_card_file(config), lambda: model_card(config, published), again, left_out=run_only)
    yield _card(data_card_file(config), lambda: data_card(config), again)


def _paper(config: RunConfig, again: str) -> Check:
    file = results_dir() / f"paper-{config.preset}.pdf"
    if not paper.available():
        return Check(_named(file), "typst is not installed", "set again", False, "make setup")

    def made() -> bytes:
        with tempfile.TemporaryDirectory() as folder:
            source, _ = paper.prepare(config.model_copy(update={"runs_root": Path(folder)}))
            return paper.compile_pdf(source)

    return _same(_named(file), file.read_bytes() if file.is_file() else None, made, again)


def _same(what: str, there: str | bytes | None, make: Callable[[], str | bytes], remedy: str) -> Check:
    """Whether a page is the one that is made again; one that cannot be made says why."""
    wanted = "the same bytes when made again"
    if there is None:
        return Check(what, "missing", wanted, False, remedy)
    try:
        same = make() == there
    except BiomniError as error:
        return Check(what, f"cannot be made again: {error}", wanted, False)
    return Check(what, "the same" if same else "others", wanted, same, remedy)


def _card(file: Path, make: Callable[[], str], remedy: str, *, left_out: tuple[str, ...] = ()) -> Check:
    """Whether each part of a card is the one that is made again; a run with more data has parts beside these."""
    wanted = "the same bytes when made again" + (f", but for {', '.join(left_out)}" if left_out else "")
    text = _read(file)
    if text is None:
        return Check(_named(file), "missing", wanted, False, remedy)
    try:
        made = _parts(make())
    except BiomniError as error:
        return Check(_named(file), f"cannot be made again: {error}", wanted, False)  # the error says what to do
    differ = [name for name, part in _parts(text).items() if name not in left_out and made.get(name) != part]
    return Check(_named(file), f"others in {', '.join(differ)}" if differ else "the same", wanted, not differ, remedy)


def _parts(card: str) -> Mapping[str, str]:
    """A card's title and parts by heading."""
    title, *parts = card.split(HEADING)
    return {TITLE: title.strip()} | {
        heading: body.strip() for heading, _, body in (part.partition("\n") for part in parts)
    }


def _read(file: Path) -> str | None:
    return file.read_text(encoding="utf-8") if file.is_file() else None


def _named(file: Path) -> str:
    return str(file.relative_to(project_root())) if file.is_relative_to(project_root()) else file.name
