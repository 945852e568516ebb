"""The command line of the stages: `python -m biomni_lib.stages COMMAND --preset cpu`; `make` calls it."""

import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from biomni_lib.config import RunConfig, load_config, parse_setting
from biomni_lib.errors import run_command
from biomni_lib.stages.paths import paths

INTERRUPTED = 130

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

Preset = Annotated[str, typer.Option(help="Sizes and engines; `python -m biomni_lib.config NAME` prints one.")]
Seed = Annotated[int, typer.Option(help="Root of all randomness; each seed has a folder of its own.")]
RunsRoot = Annotated[str, typer.Option(help="Folder of all runs.", envvar="BIOMNI_RUNS_ROOT")]
Settings = Annotated[list[str] | None, typer.Option("--set", help="A setting, such as rl.steps=5; may be repeated.")]
Only = Annotated[
    list[str] | None, typer.Option(help="A measurement, such as sandbox.call_ms, or a family; may be repeated.")
]


def settings(preset: str, seed: int, runs_root: str, changed: list[str] | None) -> RunConfig:
    """The settings that the options name. Raises: ConfigError."""
    return load_config(preset, seed=seed, runs_root=runs_root, **dict(parse_setting(text) for text in changed or []))


@app.command()
def data(preset: Preset = "cpu", seed: Seed = 0, runs_root: RunsRoot = "runs", changed: Settings = None) -> None:
    """Build the data lake anew; files of the public tier are taken from BIOMNI_DATA_MIRROR or downloaded."""
    from biomni_lib.stages import build_data

    config = settings(preset, seed, runs_root, changed)
    for name, manifest in build_data.build(config, download=True, report=print).items():
        tables = manifest.tables.values()
        print(f"{name}: {len(tables)} tables, {sum(table.rows for table in tables):,} rows")


@app.command()
def audit(preset: Preset = "cpu", seed: Seed = 0, runs_root: RunsRoot = "runs", changed: Settings = None) -> None:
    """Compare training data with held-out data and with the benchmarks that BIOMNI_EVAL1 and BIOMNI_LAB_BENCH name."""
    from biomni_lib.stages import audit

    audit.run(settings(preset, seed, runs_root, changed))


@app.command()
def notebooks(preset: Preset = "cpu", seed: Seed = 0, runs_root: RunsRoot = "runs", changed: Settings = None) -> None:
    """Run the notebooks whose stage is not done."""
    from biomni_lib.stages.plan import before_start
    from biomni_lib.stages.runner import run_notebooks

    config = settings(preset, seed, runs_root, changed)
    with _stoppable(config):
        before_start(config)
        run_notebooks(config)


@app.command()
def plan(
    preset: Preset = "cpu",
    seed: Seed = 0,
    runs_root: RunsRoot = "runs",
    changed: Settings = None,
    gpu: Annotated[str | None, typer.Option(help="Cards, such as 'H100-80GB x1' or GiB as in '80 x8'.")] = None,
    tokens: Annotated[float | None, typer.Option(min=1, help="Mean tokens of a trajectory.")] = None,
    written: Annotated[float | None, typer.Option(min=0, max=1, help="Share of these that the model writes.")] = None,
) -> None:
    """Print what the preset needs and takes: memory by part, whether it fits, tokens and GPU-hours."""
    from biomni_lib.stages import plan

    plan.run(settings(preset, seed, runs_root, changed), gpu=gpu, tokens=tokens, written=written)


@app.command()
def reproduce(preset: Preset = "cpu", seed: Seed = 0, runs_root: RunsRoot = "runs", changed: Settings = None) -> None:
    """Run every stage that is not done, draw what is not drawn, and print the results."""
    from biomni_lib.stages.plan import before_start
    from biomni_lib.stages.runner import run_notebooks

    config = settings(preset, seed, runs_root, changed)
    here = paths(config)
    with _stoppable(config):
        before_start(config)
        if run_notebooks(config) or not here.figures.is_dir():
            draw(config)
        _print_results(config)
    print(f"figures: {here.figures}\nexecuted notebooks: {here.notebooks}\nmanifests: {here.manifests}")


@app.command()
def publish(preset: Preset = "cpu", seed: Seed = 0, runs_root: RunsRoot = "runs", changed: Settings = None) -> None:
    """Put a finished run's outputs into the project's notebooks and its numbers into results/."""
    from biomni_lib.stages import paper, publication, runner

    config = settings(preset, seed, runs_root, changed)
    print(*runner.publish_notebooks(config), *publication.publish(config), sep="\n")
    if file := paper.publish(config):
        print(file)


@app.command()
def export(
    preset: Preset = "cpu",
    seed: Seed = 0,
    runs_root: RunsRoot = "runs",
    changed: Settings = None,
    to: Annotated[Path | None, typer.Option(help="The folder to write; export/ in the run's folder.")] = None,
    checkpoint: Annotated[bool, typer.Option(help="Of the last checkpoint, not of the finished run.")] = False,
) -> None:
    """Write the trained model as a Hugging Face folder: weights, tokenizer, chat template, settings, card."""
    from biomni_lib.stages import export

    print(export.run(settings(preset, seed, runs_root, changed), to, checkpoint=checkpoint))


@app.command()
def summary(preset: Preset = "cpu", seed: Seed = 0, runs_root: RunsRoot = "runs", changed: Settings = None) -> None:
    """Print the results as one JSON object."""
    from biomni_lib.stages import summary

    summary.run(settings(preset, seed, runs_root, changed))


@app.command()
def verify(preset: Preset = "cpu", seed: Seed = 0, runs_root: RunsRoot = "runs", changed: Settings = None) -> None:
    """Check a run against its manifests and against the published results."""
    from biomni_lib.stages import verify

    if not verify.run(settings(preset, seed, runs_root, changed)):
        raise typer.Exit(1)


@app.command()
def seeds(preset: Preset = "cpu", seed: Seed = 0, runs_root: RunsRoot = "runs", changed: Settings = None) -> None:
    """Run the preset with three seeds and pool their results."""
    from biomni_lib.stages import seeds

    config = settings(preset, seed, runs_root, changed)
    with _stoppable(config):
        seeds.run(config)


@app.command()
def ablations(preset: Preset = "cpu", seed: Seed = 0, runs_root: RunsRoot = "runs", changed: Settings = None) -> None:
    """Run the preset's RL again, each time with one thing changed."""
    from biomni_lib.stages import ablations

    config = settings(preset, seed, runs_root, changed)
    with _stoppable(config):
        ablations.run(config)


@app.command()
def evaluate(
    models: Annotated[
        list[str],
        typer.Argument(
            help="base, sft, rl, rl@STEP, …: the run's; a folder; openai:MODEL or anthropic:MODEL. NAME= renames one."
        ),
    ],
    split: Annotated[str, typer.Option(help="heldout, dev, train, patients-leak-free, eval1, …")] = "heldout",
    task: Annotated[list[str] | None, typer.Option(help="A task's name; may be repeated.")] = None,
    preset: Preset = "cpu",
    seed: Seed = 0,
    runs_root: RunsRoot = "runs",
    changed: Settings = None,
) -> None:
    """Evaluate any models on a split's first questions, evaluate.samples times each, and compare them in pairs."""
    from biomni_lib.analysis import shown
    from biomni_lib.stages import any_model

    config = settings(preset, seed, runs_root, changed)
    try:
        found = any_model.run(config, models, split=split, tasks=task or ())
    except KeyboardInterrupt:
        print("\nstopped; the same command goes on", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None
    for table in (found.scores, found.differences, found.against_article.reset_index()):
        if table is not None:
            print(shown(table).to_string(index=False), end="\n\n")
    print(*(f"note: {note}" for note in found.notes), f"rows, trajectories and tables: {found.folder}", sep="\n")


@app.command()
def figures(preset: Preset = "cpu", seed: Seed = 0, runs_root: RunsRoot = "runs", changed: Settings = None) -> None:
    """Draw every figure again from its tables."""
    config = settings(preset, seed, runs_root, changed)
    names = draw(config)
    folder = paths(config).figures
    print(f"{len(names)} figures in {folder}: {', '.join(sorted(names))}\nto look at: {folder / 'index.html'}")


@app.command()
def paper(preset: Preset = "cpu", seed: Seed = 0, runs_root: RunsRoot = "runs", changed: Settings = None) -> None:
    """Set the paper from the published results, with its figures and tables for LaTeX; needs no run."""
    from biomni_lib.stages import paper

    paper.run(settings(preset, seed, runs_root, changed))


@app.command()
def viewer(
    preset: Preset = "cpu",
    seed: Seed = 0,
    runs_root: RunsRoot = "runs",
    changed: Settings = None,
    source: Annotated[
        list[str] | None, typer.Option(help="evaluate, length, models, sft or rl; may be repeated.")
    ] = None,
    task: Annotated[list[str] | None, typer.Option(help="A task's name; may be repeated.")] = None,
    model: Annotated[list[str] | None, typer.Option(help="A model, such as rl; may be repeated.")] = None,
) -> None:
    """Write the trajectories that a run recorded as one page to look at, viewer.html."""
    from biomni_lib.stages import viewer

    config = settings(preset, seed, runs_root, changed)
    viewer.run(config, sources=source or (), tasks=task or (), models=model or ())


@app.command()
def bench(
    preset: Preset = "cpu",
    seed: Seed = 0,
    runs_root: RunsRoot = "runs",
    changed: Settings = None,
    only: Only = None,
    publish: Annotated[bool, typer.Option(help="Measure nothing; write what bench.json holds to results/.")] = False,
) -> None:
    """Measure speed as ratios within one run, into bench.json."""
    from biomni_lib.stages import bench

    config = settings(preset, seed, runs_root, changed)
    if publish:
        print(bench.publish(config))
    else:
        bench.run(config, only=only or ())


def _print_results(config: RunConfig) -> None:
    """Score, 95% interval and length of every model, task by task, and what each stage took."""
    import pandas as pd

    from biomni_lib.stages import summary

    found = summary.summary(config)
    rows = [{"task": t, "model": m, **numbers} for t, models in found["tasks"].items() for m, numbers in models.items()]
    print("\n" + pd.DataFrame(rows).round(3).to_string(index=False))
    took = ", ".join(f"{stage} {seconds:.0f}" for stage, seconds in found["seconds"].items())
    print(f"\nseconds: {took}")


def draw(config: RunConfig) -> list[str]:
    """Save the figures of every stage, and the page that shows them; their names."""
    from biomni_lib.stages import ablations, evaluate, gallery, length_vs_score, rl, scheduling, sft

    stages = (sft, rl, ablations, evaluate, length_vs_score, scheduling)
    names = [name for stage in stages for name in stage.draw(config)]
    gallery.write_gallery(paths(config).figures, preset=config.preset, seed=config.seed)
    return names


@contextlib.contextmanager
def _stoppable(config: RunConfig) -> Iterator[None]:
    """Ctrl-C ends the command with one line that says how to go on."""
    from biomni_lib.stages.runner import resume_command

    try:
        yield
    except KeyboardInterrupt:
        print(f"\nstopped; to go on: {resume_command(config)}", file=sys.stderr)
        raise typer.Exit(INTERRUPTED) from None


def main() -> None:
    """Run the command line; a failure is one line on stderr (a failed notebook: one block) and exit status 1."""
    run_command(app)


if __name__ == "__main__":
    main()
