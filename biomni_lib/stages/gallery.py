"""`index.html` in a folder of figures: each with its caption, what it stands on, its files, and how to cite it.

One file without scripts or addresses of other machines; the pictures are inside it, the links lead to the files beside
it. The same figures give the same bytes.
"""

import base64
import hashlib
import html
import io
from pathlib import Path
from typing import Any

import pandas as pd

from biomni_lib.analysis.tables import require
from biomni_lib.errors import DataError
from biomni_lib.figures.saving import counted, seeds_of
from biomni_lib.provenance import atomic_write
from biomni_lib.stages.citation import authors, bibtex, citation, cite_figure

KINDS = ("pdf", "svg", "png", "csv")
PAGE = "index.html"
STYLE = """
:root { color-scheme: light; }
body { margin: 0 auto; max-width: 62rem; padding: 1.5rem; color: #1a1a1a; background: #fff;
  font: 16px/1.5 system-ui, "Liberation Sans", sans-serif; }
h1 { font-size: 1.6rem; margin: 0 0 .3rem; } h2 { font-size: 1.1rem; margin: 0 0 .6rem; }
nav ul { columns: 3 14rem; column-gap: 2.2rem; padding-left: 1.1rem; } nav { margin: 1rem 0 2rem; }
article { border-top: 1px solid #d9d9d9; padding: 1.5rem 0; }
img { width: 75%; height: auto; display: block; margin: 0 auto 1rem; }
figcaption { color: #333; } figure { margin: 0; }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .1rem .8rem; font-size: .9rem; margin: .8rem 0; }
dt { color: #6b6b6b; } dd { margin: 0; }
a { color: #0072B2; } .files a { margin-right: .9rem; }
pre { background: #f6f6f6; padding: .7rem; overflow-x: auto; font-size: .8rem; }
summary { cursor: pointer; color: #0072B2; }
""".strip()


def write_gallery(folder: Path, *, preset: str, seed: int) -> Path:
    """Write the page of a folder's figures.

    Args:
        folder: with a PDF, SVG, PNG, CSV and TXT (the caption) of each figure.
        preset, seed: of the run that drew them.
    Returns: the page.
    Raises: DataError when the folder has no figure, or a figure lacks one of its files or the rows that it shows.
    """
    target = folder / PAGE
    atomic_write(target, gallery(folder, preset=preset, seed=seed))
    return target


def gallery(folder: Path, *, preset: str, seed: int) -> str:
    """The page of a folder's figures. Args, Raises: as `write_gallery`."""
    names = sorted(file.stem for file in folder.glob("*.svg"))
    if not names:
        raise DataError(f"{folder}: no figures; draw them first (make figures PRESET={preset})")
    return page([read_figure(folder, name, seed) for name in names], preset)


def read_figure(folder: Path, name: str, seed: int) -> dict[str, Any]:
    """What the page says of a figure: name, caption, title, picture (an address that holds it), data_sha256, facts.

    Raises: DataError when a file is missing, or the CSV is empty.
    """
    lost = [f"{name}.{kind}" for kind in (*KINDS, "txt") if not (folder / f"{name}.{kind}").is_file()]
    if lost:
        raise DataError(f"{folder}: {', '.join(lost)} missing; draw the figures again (make figures)")
    data = (folder / f"{name}.csv").read_bytes()
    try:
        table = pd.read_csv(io.BytesIO(data))
    except ValueError as error:
        raise DataError(f"{folder / name}.csv: not a table ({error}); draw the figures again (make figures)") from None
    said = (folder / f"{name}.txt").read_text(encoding="utf-8").strip()
    return {
        "name": name,
        "caption": said,
        "title": said.partition(". ")[0].rstrip("."),
        "picture": _picture(folder, name),
        "data_sha256": hashlib.sha256(data).hexdigest(),
        "facts": facts(require(table, [], f"{name}.csv"), said, seed),
    }


def facts(table: pd.DataFrame, said: str, seed: int) -> dict[str, str]:
    """On how much a figure stands, from the table that it shows: points, n, seeds, interval; what is not, said so.

    Args:
        said: the caption, which names the interval where there is one.
        seed: of the run, for a table that does not speak of seeds.
    """
    seeds = seeds_of(table)
    interval = next((part for part in said.split(". ") if "interval" in part and "%" in part), None)
    drawn = {"ci_low", "ci_high"} <= set(table.columns)
    return {
        "points": str(len(table)),
        "n": counted(table).removeprefix("n = ") or "not counted",
        "seeds": f"1 (seed {seed})" if seeds is None else str(seeds),
        "interval": (interval or "from ci_low to ci_high of the CSV").rstrip(".") if drawn else "none drawn",
    }


def page(figures: list[dict[str, Any]], preset: str) -> str:
    """The whole page. Args: figures, as `read_figure` gives them."""
    cited = citation()
    title = html.escape(f"Figures of {cited['title']}, preset {preset}")
    links = "\n".join(f'<li><a href="#{f["name"]}">{html.escape(f["title"])}</a></li>' for f in figures)
    parts = "\n".join(_article(figure, cited, preset) for figure in figures)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
{STYLE}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{len(figures)} figures. Each is drawn from the table beside it; the links lead to the files in this page's folder.
Licence of the figures and of the code: {html.escape(cited["license"])}.</p>
<nav><ul>
{links}
</ul></nav>
{parts}
</body>
</html>
"""


def _article(figure: dict[str, Any], cited: dict[str, Any], preset: str) -> str:
    name, told = figure["name"], html.escape(figure["caption"])
    files = " ".join(f'<a href="{name}.{kind}" download>{kind.upper()}</a>' for kind in KINDS)
    rows = "\n".join(f"<dt>{key}</dt><dd>{html.escape(value)}</dd>" for key, value in figure["facts"].items())
    sentence = cite_figure(cited, name, figure["title"], preset, figure["data_sha256"])
    note = f"figure {name}, preset {preset}, version {cited['version']}, data sha256 {figure['data_sha256']}"
    fields = {"title": figure["title"], "author": f"{{{authors(cited)}}}", "howpublished": cited["title"], "note": note}
    entry = html.escape(bibtex(f"biomni_r0_{name.replace('-', '_')}", fields))
    return f"""<article id="{name}">
<h2>{html.escape(figure["title"])}</h2>
<figure>
<img alt="{told}" src="{figure["picture"]}">
<figcaption>{told}</figcaption>
</figure>
<dl>
{rows}
</dl>
<p class="files">{files}</p>
<details><summary>How to cite this figure</summary>
<p>{html.escape(sentence)}</p>
<pre>{entry}</pre>
</details>
</article>"""


def _picture(folder: Path, name: str) -> str:
    """The figure as an address that holds it: the SVG, or the PNG where an SVG of many marks is larger."""
    svg, png = ((folder / f"{name}.{kind}").read_bytes() for kind in ("svg", "png"))
    kind, content = ("svg+xml", svg) if len(svg) <= 2 * len(png) else ("png", png)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
