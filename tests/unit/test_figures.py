import hashlib
import itertools

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from biomni_lib import figures
from biomni_lib.errors import DataError
from biomni_lib.figures.style import BLUE, task_title, words

TASKS = ("rare_disease_diagnosis", "patient_gene_detection")
STEPS = np.arange(30)


def with_interval(table, value):
    return table.assign(ci_low=table[value] - 0.05, ci_high=table[value] + 0.05, n=300)


SCORES = with_interval(
    pd.DataFrame(
        [
            {"task": task, "model": model, "score": score, "seeds": 3}
            for task in ("all", *TASKS)
            for model, score in {"random": 0.17, "overlap_excluded": 0.7, "base": 0.05, "sft": 0.5, "rl": 0.7}.items()
            if not (model == "random" and task == TASKS[0])
        ]
    ),
    "score",
)
METRICS = pd.concat(
    [
        pd.DataFrame(
            {
                "step": STEPS,
                "seed": seed,
                "reward/correctness": 0.5 + STEPS / 100 + seed / 50,
                "reward/format": 0.95 + STEPS / 1000,
                "response/tokens": 110.0 + STEPS + seed,
                "response/turns": 2 + STEPS / 60,
                "perf/engine_idle_fraction": 0.1,
                "perf/learner_idle_fraction": 0.4,
            }
        )
        for seed in range(2)
    ]
)
DIFFERENCES = with_interval(
    pd.DataFrame(
        [
            {"task": task, "seed": seed, "model": "rl", "reference": "sft", "difference": 0.1 + 0.01 * number}
            for task in ("all", *TASKS)
            for number, seed in enumerate(["0", "1", "2", "pooled"])
        ]
    ),
    "difference",
)
CURVE = with_interval(
    pd.DataFrame(
        [
            {"task": t, "model": m, "length": "tokens", "length_mean": 60 + 20 * i, "outcome": 0.3 + i / 10}
            for t, m, i in itertools.product(TASKS, ("sft", "rl"), range(5))
        ]
    ),
    "outcome",
)
ODDS = with_interval(
    pd.DataFrame(
        [
            {"model": m, "reading": r, "adjusted": a, "odds_ratio": 1.1 + 0.2 * a, "instances": 90, "seeds": 3}
            for m, r, a in itertools.product(
                ("sft", "rl", "teacher, sampling"), ("across tasks", "within task", "within instance"), (False, True)
            )
        ]
    ),
    "odds_ratio",
)
ENDINGS = with_interval(
    pd.DataFrame(
        {"model": m, "failure": f, "share": 0.5, "n": 90, "seeds": 3}
        for m in ("base", "sft", "teacher_best")
        for f in ("wrong answer", "error:malformed_turn", "gave_up", "token_limit", "timeout")
    ),
    "share",
)
DOSES = pd.DataFrame(
    [
        {"model": m, "unit": unit, "budget": budget, "right": 0.3 + 0.1 * i, "ci_low": 0.2, "ci_high": 0.8}
        | {"truncated": 0.4 - 0.1 * i, "truncated_low": 0.0, "truncated_high": 0.5, "instances": 60, "seeds": 1}
        for m in ("sft", "rl")
        for unit, budgets in {"turns": (1, 2, 3, np.nan), "tokens": (64, 128, 192, np.nan)}.items()
        for i, budget in enumerate(budgets)
    ]
)
ACCEPTANCE = with_interval(
    pd.DataFrame(
        [
            {"task": t, "strategy": s, "accepted": 0.2 + i / 5}
            for t, (i, s) in itertools.product(TASKS, enumerate(("guess", "one_lookup", "evidence_and_verification")))
        ]
    ),
    "accepted",
)
STALENESS = pd.DataFrame({"staleness": [0, 1, 1, 2], "tokens": [100, 500, 399, 1]})
SPANS = pd.DataFrame(
    [
        {"panel": panel, "lane": lane, "kind": kind, "began_s": 3.0 * i, "ended_s": 3.0 * i + 2}
        for panel in ("Synchronous", "Fully asynchronous")
        for lane in range(-1, 6)
        for i, kind in enumerate(["generate", "wait", "tool", "other"] if lane >= 0 else ["learn"])
    ]
)
MODES = pd.DataFrame({"mode": ["Synchronous", "One step off"], "engine_idle": [0.6, 0.01], "learner_idle": [0.9, 0.1]})
STALENESS_BY_MODE = pd.DataFrame(
    [{"mode": m, "staleness": s, "trajectories": 10 + s} for m in MODES["mode"] for s in range(5)]
)
THROUGHPUT = pd.DataFrame(
    [
        {"setting": name, "value": v, "tokens_per_s": 9 + v, "engine_of_limit": 0.5, "learner_idle": 0.1, "dropped": 0}
        for name, values in {"Agents": (8, 16, 32, 64, 128, 256), "Staleness": (0, 1, 2, 4, 8)}.items()
        for v in values
    ]
)
SCALING = pd.DataFrame(
    [
        {"engines": n, "tokens_per_s": 90.0 * n, "kind": kind, "low": 80.0 * n, "high": 100.0 * n}
        for kind, sizes in {"simulated": (62, 125, 250, 1000), "extrapolated": (2000, 10_000)}.items()
        for n in sizes
    ]
)

FIGURES = {
    "timeline": (figures.timeline, SPANS, "ended_s"),
    "idle_by_mode": (figures.idle_by_mode, MODES, "learner_idle"),
    "staleness_by_mode": (figures.staleness_by_mode, STALENESS_BY_MODE, "trajectories"),
    "throughput": (figures.throughput, THROUGHPUT, "dropped"),
    "scaling": (figures.scaling, SCALING, "high"),
    "headline": (figures.headline, SCORES, "score"),
    "score_by_task": (figures.score_by_task, SCORES, "ci_low"),
    "learning_curves": (figures.learning_curves, METRICS, "reward/format"),
    "response_length": (figures.response_length, METRICS, "response/turns"),
    "idle_time": (figures.idle_time, METRICS, "perf/engine_idle_fraction"),
    "staleness": (figures.staleness, STALENESS, "tokens"),
    "acceptance_by_strategy": (figures.acceptance_by_strategy, ACCEPTANCE, "accepted"),
    "seed_differences": (figures.seed_differences, DIFFERENCES, "difference"),
    "length_vs_score": (figures.length_vs_score, CURVE, "length_mean"),
    "failure_endings": (figures.failure_endings, ENDINGS, "share"),
    "length_odds": (figures.length_odds, ODDS, "adjusted"),
    "dose_response": (figures.dose_response, DOSES, "truncated_high"),
}
each = pytest.mark.parametrize("name", FIGURES)
each_width = pytest.mark.parametrize("width_in", [figures.COLUMN_WIDTH_IN, figures.PAGE_WIDTH_IN])


@each
@each_width
def test_text_stays_inside_and_apart(name, width_in):
    draw, table, _ = FIGURES[name]
    figure = draw(table, width_in=width_in)
    assert figure.get_size_inches()[0] == width_in
    renderer = FigureCanvasAgg(figure).get_renderer()
    for ax in figure.axes:
        for axis in (ax.xaxis, ax.yaxis):
            shown = [tick.label1 for tick in axis.get_major_ticks() if tick.label1.get_visible()]
            low, high = sorted(axis.get_view_interval())
            places = axis.get_majorticklocs()
            boxes = [
                label.get_window_extent(renderer)
                for label, place in zip(shown, places, strict=False)
                if label.get_text() and low <= place <= high
            ]
            assert not any(a.overlaps(b) for a, b in itertools.combinations(boxes, 2))
            assert all(box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y0 >= -1 for box in boxes)
    assert min(text.get_fontsize() for text in figure.findobj(mpl.text.Text)) >= 7


@each
def test_empty_and_partial_tables_are_refused_by_name(name):
    draw, table, column = FIGURES[name]
    with pytest.raises(DataError, match="no rows"):
        draw(table.iloc[:0])
    with pytest.raises(DataError, match=f"no column {column}"):
        draw(table.drop(columns=column))


@pytest.mark.parametrize("name", ["headline", "learning_curves"])
def test_same_data_same_bytes_whatever_the_session_has_set(name, tmp_path):
    draw, table, _ = FIGURES[name]
    first = figures.save_figure(draw(table), name, table, tmp_path / "first")
    with mpl.rc_context({"font.size": 30, "svg.hashsalt": "other", "xtick.direction": "in", "pdf.fonttype": 3}):
        again = figures.save_figure(draw(table.copy()), name, table, tmp_path / "again")
    assert first == again
    changed = table.assign(**{table.columns[2]: table[table.columns[2]] * 0.9})
    other = figures.save_figure(draw(changed), name, changed, tmp_path / "other")
    assert not set(first.values()) & set(other.values())


def test_the_answers_without_a_budget_stand_apart_at_the_right():
    figure = figures.dose_response(DOSES)
    assert len(figure.axes) == 4
    labels = [[tick.get_text() for tick in ax.get_xticklabels()] for ax in figure.axes]
    assert labels[:2] == [["1", "2", "3", "none"], ["64", "128", "192", "none"]]
    joined = [
        line.get_xdata() for line in figure.axes[0].lines if line.get_linestyle() == "-" and len(line.get_xdata())
    ]
    assert len(joined) == 2 and all(np.round(x).tolist() == [0, 1, 2] for x in joined)


def test_odds_lie_on_a_logarithmic_axis_around_1_and_what_goes_beyond_it_has_an_arrowhead():
    wide = ODDS.assign(ci_low=0.01, ci_high=np.where(ODDS["adjusted"], 1.5, 50.0))
    figure = figures.length_odds(wide)
    for ax in figure.axes:
        low, high = ax.get_xlim()
        assert ax.get_xscale() == "log" and low * high == pytest.approx(1) and high >= wide["odds_ratio"].max()
        assert 1 in ax.get_xticks() and len(ax.get_xticks()) >= 3
        heads = {line.get_marker(): len(line.get_xdata()) for line in ax.lines if line.get_color() == BLUE}
        assert heads["<"] == heads["o"] and heads[">"] == heads["o"]
        assert not any(
            len(line.get_xdata()) for line in ax.lines if line.get_marker() == ">" and line.get_color() != BLUE
        )


def test_saved_files_are_what_the_entry_says(tmp_path):
    entry = figures.save_figure(figures.headline(SCORES), "headline", SCORES, tmp_path)
    assert list(entry) == ["headline.pdf", "headline.svg", "headline.png", "headline.csv"]
    for name, sha256 in entry.items():
        assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == sha256
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "headline.csv"), SCORES, check_dtype=False)
    pdf = (tmp_path / "headline.pdf").read_bytes()
    assert b"/Type3" not in pdf and b"CreationDate" not in pdf
    assert b"<dc:date>" not in (tmp_path / "headline.svg").read_bytes()


def test_drawing_leaves_the_session_as_it_was():
    before = dict(mpl.rcParams)
    figures.headline(SCORES)
    assert dict(mpl.rcParams) == before


def test_a_notebook_shows_the_figure():
    png, shown = figures.headline(SCORES)._repr_png_()
    assert png.startswith(b"\x89PNG") and shown["width"] == round(figures.COLUMN_WIDTH_IN * 110)


def test_what_is_not_in_the_table_is_said():
    with pytest.raises(DataError, match="no task = 'gwas'"):
        figures.headline(SCORES, task="gwas")
    with pytest.raises(DataError, match="2 pairs of models"):
        figures.seed_differences(pd.concat([DIFFERENCES, DIFFERENCES.assign(model="teacher")]))
    with pytest.raises(DataError, match="odds ratios of length that were estimated: no rows"):
        figures.length_odds(ODDS.assign(odds_ratio=np.nan))
    with pytest.raises(DataError, match="staleness of tokens"):
        figures.staleness(STALENESS.assign(tokens=0))
    with pytest.raises(DataError, match="learning curves, reward/format: no rows"):
        figures.learning_curves(METRICS.assign(**{"reward/format": np.nan}))


def test_caption_says_what_the_figure_stands_on():
    assert figures.caption("Score by task", SCORES, note="Heuristics read the prompt alone") == (
        "Score by task. n = 300 instances a point. 3 seeds. 95% bootstrap intervals over instances. "
        "Heuristics read the prompt alone."
    )
    steps = METRICS["step"].nunique()
    assert figures.caption("Length in training.", METRICS) == f"Length in training. {steps} steps. 2 seeds."
    assert figures.caption("Loss", METRICS[["reward/format"]]) == "Loss. 1 seed."
    assert "3 seeds" in figures.caption("Gain", DIFFERENCES)
    with pytest.raises(DataError, match="figure caption: no rows"):
        figures.caption("Nothing", SCORES.iloc[:0])


def test_names_are_spelt_as_readers_know_them() -> None:
    assert task_title("lab_bench_dbqa") == "LAB-Bench DbQA" and task_title("all") == "All tasks"
    assert words("gwas_causal_gene_opentargets") == "GWAS causal gene Open Targets"
    assert words("one_term") == "One term"
