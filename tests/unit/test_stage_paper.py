import hashlib
import json
import re

import pytest

from biomni_lib.analysis import score_table
from biomni_lib.errors import DataError, RunError
from biomni_lib.figures.style import task_title
from biomni_lib.stages import paper, results
from biomni_lib.stages.paper import typesetting
from biomni_lib.stages.paper.numbers import numbers, verdict
from biomni_lib.stages.paper.published import read_bench, read_published
from biomni_lib.stages.paper.tables import escaped, latex_tables, tabular
from tests.house import paper_rules
from tests.toy_results import INSTANCES, PAGE, RIGHT, TASKS, publish_toy, publish_toy_ablations, publish_toy_budgets

typst = pytest.mark.skipif(not typesetting.available(), reason="the package typst is not installed")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The published results lie in the test's own folder."""
    target = tmp_path / "results"
    target.mkdir()
    monkeypatch.setattr(results, "results_dir", lambda: target)
    monkeypatch.setattr(paper, "results_dir", lambda: target)
    return target


@pytest.fixture
def quick(make_config):
    return make_config(evaluate={"bootstrap": 200})


def found(config):
    published = read_published(config)
    return numbers(config, published, score_table(published.rows, draws=config.evaluate.bootstrap))


def test_numbers_are_those_of_the_published_rows(quick):
    publish_toy(quick)
    n = found(quick)
    scores = {model["name"]: model["tasks"]["all"]["score"] for model in n["models"]}
    assert scores["overlap"] == RIGHT["overlap"] / INSTANCES
    assert scores["rl"] == pytest.approx((RIGHT["rl"] + 0.5) / INSTANCES)  # seed 1 has one more right
    gain = next(c for c in n["comparisons"] if c["task"] == "all" and c["reference"] == "sft")
    assert gain["difference"] == pytest.approx((RIGHT["rl"] - RIGHT["sft"]) / INSTANCES) and gain["verdict"] == "above"
    rule = next(c for c in n["comparisons"] if c["rule"] and c["task"] == "all")
    assert (rule["reference"], rule["verdict"]) == ("overlap", "below")
    assert n["seeds"] == {"count": 2, "list": [0, 1]} and n["tasks"][0]["n"] == INSTANCES
    assert {model["name"]: model["kind"] for model in n["models"]} == {
        "random": "rule",
        "overlap": "rule",
        "teacher": "teacher",
        "base": "trained",
        "sft": "trained",
        "rl": "trained",
    }
    assert n["settings"]["rl"]["steps"] == quick.rl.steps and n["recipe"]["name"] == quick.rl.recipe
    json.dumps(n, allow_nan=False)


def test_targets_are_met_only_when_every_check_is(quick):
    publish_toy(quick)
    missed = found(quick)["targets"]
    assert not missed["all_met"] and missed["met"] == missed["checked"] - len(missed["missed"])
    assert all(line.startswith("held-out instances") for line in missed["missed"])  # 80 of the 300 asked for
    publish_toy(quick, right={**RIGHT, "rl": RIGHT["sft"] - 12})
    worse = found(quick)
    assert "correctness, rl minus sft (seed pooled)" in worse["targets"]["missed"]
    assert {c["verdict"] for c in worse["comparisons"] if c["reference"] == "sft"} == {"below"}


def test_longer_right_answers_are_said_to_be_longer(quick):
    publish_toy(quick)
    length = found(quick)["length"]
    assert length["verdicts"] == ["above"] and not length["reverses"]
    assert {row["title"] for row in length["within_task"]} == {task_title(task) for task in TASKS}
    assert length["truncated"] == {"teacher": 0.0, "sft": 0.0, "rl": 0.0}


@pytest.mark.parametrize(("low", "high", "word"), [(0.1, 0.2, "above"), (-0.2, -0.1, "below"), (-0.1, 0.1, "unclear")])
def test_the_word_follows_the_interval(low, high, word):
    assert verdict(low, high) == word


def test_the_article_stands_in_columns_of_its_own_and_unknown_cells_are_empty(quick):
    publish_toy(quick)
    article = found(quick)["article"]
    columns = [column["name"] for column in article["columns"]]
    assert [column["published"] for column in article["columns"]] == [False, False, True, True, True]
    rows = {row["task"]: dict(zip(columns, row["values"], strict=True)) for row in article["rows"]}
    assert rows["all"]["published: Biomni-R0-32B"] == 0.669
    assert rows["rare_disease_diagnosis"]["published: Biomni-R0-8B"] is None
    assert rows["crispr_delivery"] == dict.fromkeys(columns)


def test_what_is_not_published_is_named_and_left_out(quick, make_config, folder):
    publish_toy(quick)
    n = found(quick)
    assert n["ablations"] is None and n["bench"] is None and n["budgets"] is None and len(n["missing"]) == 4
    (folder / "bench-smoke.md").write_text(PAGE)
    publish_toy_ablations(quick)
    publish_toy_budgets(quick)
    n = found(quick)
    assert [row["apart"] for row in n["ablations"]["rows"]] == [False, True] and n["ablations"]["steps"] == 3
    assert [row["key"] for row in n["bench"]["rows"]] == ["sandbox.start_vs_fork", "learner.peak_gb"]
    assert n["missing"] == ["The figure rl-learning-curves was not published for this preset."]
    publish_toy_ablations(make_config(evaluate={"bootstrap": 200}, rl={"learning_rate": 0.5}))
    missing = " ".join(found(quick)["missing"])
    assert "ablations were made with other settings" in missing and "rl.learning_rate 0.5 there" in missing
    publish_toy_budgets(make_config(evaluate={"bootstrap": 200}, length={"turns": (1,)}))
    assert "under budgets were made with other settings and are left out (length.turns [1] there" in " ".join(
        found(quick)["missing"]
    )


def test_answers_under_budgets_stand_beside_those_without_and_are_of_one_version(quick):
    publish_toy(quick)
    publish_toy_budgets(quick)
    budgets = found(quick)["budgets"]
    assert (budgets["n"], budgets["seeds"], budgets["verdicts"]) == (INSTANCES * len(TASKS), 1, ["below"])
    for model in budgets["models"]:
        (dose,), right = model["doses"], RIGHT[model["name"]]
        assert model["free"]["right"] == right / INSTANCES and model["free"]["truncated"] == 0
        assert dose["right"] == (right / 4) / INSTANCES and dose["truncated"] == 1 / INSTANCES
        assert dose["effect"]["difference"] == pytest.approx(-0.75 * right / INSTANCES)
    file = publish_toy_budgets(quick, seed=1)
    file.rename(file.with_suffix(".other"))
    publish_toy(quick, right={**RIGHT, "rl": 30})
    file.with_suffix(".other").rename(file)
    with pytest.raises(DataError, match="budgets-smoke.parquet and seeds-smoke.parquet are of two versions"):
        found(quick)
    file.write_bytes(b"PAR1 no table")
    with pytest.raises(DataError, match=r"budgets-smoke.parquet: cannot be read"):
        found(quick)


def test_bad_published_results_are_named(quick, make_config, folder):
    with pytest.raises(DataError, match=r"summary-smoke.json is missing: no results were published for preset smoke"):
        read_published(quick)
    publish_toy(quick)
    rows, summary = results.seeds_file(quick), results.summary_file(quick)
    with pytest.raises(DataError, match=r"seeds-smoke.parquet: made with other settings .*rl.steps \d+ there, 77 now"):
        read_published(make_config(evaluate={"bootstrap": 200}, rl={"steps": 77}))
    kept = rows.read_bytes()
    rows.write_bytes(b"PAR1 no table")
    with pytest.raises(DataError, match=r"seeds-smoke.parquet: cannot be read"):
        read_published(quick)
    rows.unlink()
    with pytest.raises(DataError, match=r"seeds-smoke.parquet is missing; run `make seeds PRESET=smoke`"):
        read_published(quick)
    rows.write_bytes(kept)
    good = json.loads(summary.read_text())
    for change, told in (
        ({"preset": "cpu"}, "is of preset cpu, not smoke"),
        ({"tasks": {"all": {"sft": {}}}}, "has no model rl"),
        ({"tasks": []}, "not a readable summary"),
    ):
        summary.write_text(json.dumps(good | change))
        with pytest.raises(DataError, match=told):
            read_published(quick)
    good["tasks"]["all"]["rl"]["score"] += 0.01
    summary.write_text(json.dumps(good))
    with pytest.raises(DataError, match="are of two versions: the summary's scores follow from the rows of no seed"):
        read_published(quick)


def test_half_of_something_published_is_named(quick, folder):
    publish_toy(quick)
    publish_toy_ablations(quick)
    results.ablation_files(quick)[1].unlink()
    with pytest.raises(DataError, match=r"ablation-curves-smoke.parquet is missing beside ablations-smoke.parquet"):
        read_published(quick)
    results.ablation_files(quick)[0].unlink()
    results.figures_dir(quick).mkdir()
    (results.figures_dir(quick) / "rl-learning-curves.svg").write_text("<svg/>")
    with pytest.raises(DataError, match=r"rl-learning-curves.txt is missing beside its figure"):
        read_published(quick)


def test_a_page_that_is_none_of_benchmarks_is_refused(tmp_path):
    file = tmp_path / "bench.md"
    file.write_text("# Something else\n")
    with pytest.raises(DataError, match="not a page of benchmarks"):
        read_bench(file)
    file.write_text(PAGE.replace(" | 268.7 starts a second (fork) | 6.5 ms (gap) |", " |"))
    with pytest.raises(DataError, match=r"the row of sandbox.start_vs_fork has 3 cells, not 5"):
        read_bench(file)


def test_the_committed_page_of_benchmarks_can_be_read():
    page = paper.sources_dir().parent / "results" / "bench-cpu.md"
    rows = read_bench(page)["rows"]
    assert len(rows) == page.read_text().count("| **") and all(row["measured"] for row in rows)


def test_latex_tables_have_the_numbers_and_escape_text(quick, folder):
    publish_toy(quick)
    (folder / "bench-smoke.md").write_text(PAGE)
    publish_toy_ablations(quick)
    publish_toy_budgets(quick)
    tables = latex_tables(found(quick))
    assert set(tables) == {
        f"{name}.tex"
        for name in (
            *("scores", "seeds", "targets", "comparisons", "tasks-against-models", "ablations", "budgets", "bench"),
        )
    }
    assert r"all & Overlap & 0.900 & " in tables["scores.tex"] and r"sandbox.start\_vs\_fork" in tables["bench.tex"]
    assert r"Nothing & 0.800 & 0.700 to 0.900 & 1.000 & 100 \\" in tables["ablations.tex"]
    for table in tables.values():
        width = len(re.match(r"\\begin\{tabular\}\{([lr]+)\}", table)[1])
        lines = [line for line in table.splitlines() if line.endswith(r"\\")]
        assert {len(re.findall(r"(?<!\\)&", line)) for line in lines} == {width - 1}
    assert escaped("a_b & 50% {x}") == r"a\_b \& 50\% \{x\}"
    assert tabular(["a", "b"], [[None, -0.5]]).splitlines()[4] == r"-- & $-$0.500 \\"


@typst
def test_the_paper_compiles_to_the_same_bytes_with_everything_beside_it(quick, folder, capsys):
    publish_toy(quick)
    (folder / "bench-smoke.md").write_text(PAGE)
    publish_toy_ablations(quick)
    publish_toy_budgets(quick)
    pdf = paper.run(quick)
    first = hashlib.sha256(pdf.read_bytes()).hexdigest()
    assert pdf.read_bytes().startswith(b"%PDF-") and pdf == quick.run_dir / "paper" / "paper.pdf"
    names = {file.name for file in (pdf.parent / "figures").iterdir()}
    for name in ("headline", "score-by-task", "seeds", "endings", "length-vs-score", "dose-response", "ablations"):
        assert {f"{name}.{kind}" for kind in ("pdf", "svg", "png", "csv", "txt")} <= names
    assert (pdf.parent / "tables" / "scores.tex").is_file()
    assert "not in the paper: The figure rl-learning-curves" in capsys.readouterr().out
    pdf.unlink()
    assert hashlib.sha256(paper.run(quick).read_bytes()).hexdigest() == first


@typst
@pytest.mark.parametrize(
    ("right", "seeds"),
    [
        ({"sft": 30, "rl": 10}, (0,)),
        ({"sft": 20, "rl": 20, "sft_best": 39, "teacher_best": 40, "random": 0, "overlap": 40}, (0, 1, 2)),
    ],
)
def test_other_results_make_another_paper_and_none_is_refused(quick, right, seeds):
    publish_toy(quick, seeds=seeds, right=right)
    source, _ = paper.prepare(quick)
    pages = paper.compile_pages(source, ppi=30)
    assert len(pages) >= 3 and all(page.startswith(b"\x89PNG") for page in pages)
    words = json.loads((source.parent / "numbers.json").read_text())
    assert words["targets"]["all_met"] is False


@typst
def test_a_source_that_does_not_compile_says_why(tmp_path):
    source = tmp_path / "bad.typ"
    source.write_text("#unknown-name")
    with pytest.raises(RunError, match=r"bad.typ cannot be compiled: unknown variable: unknown-name"):
        typesetting.compile_pdf(source)


@typst
def test_publishing_puts_a_small_pdf_into_the_results(quick, folder, monkeypatch, capsys):
    assert paper.publish(quick) is None and "no paper: " in capsys.readouterr().out
    publish_toy(quick)
    assert paper.publish(quick) == folder / "paper-smoke.pdf"
    monkeypatch.setattr(paper, "PUBLISHED_BYTES_MAX", 10)
    assert paper.publish(quick) is None and "at most 10" in capsys.readouterr().out


def test_without_the_wheel_the_paper_is_refused_by_name(quick, monkeypatch, capsys):
    publish_toy(quick)
    monkeypatch.setattr(typesetting.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RunError, match="needs the package typst, which is not installed; run `make setup`"):
        paper.run(quick)
    assert paper.publish(quick) is None and "typst is not installed" in capsys.readouterr().out


def test_the_paper_s_source_has_no_number_typed_by_hand_and_no_work_that_was_not_looked_up():
    source = paper_rules.SOURCE.read_text(encoding="utf-8")
    assert list(paper_rules.typed_numbers(source)) == []
    assert list(paper_rules.unread_works(paper_rules.REFERENCES.read_text(encoding="utf-8"), source)) == []


@pytest.mark.parametrize(
    "line",
    [
        "The score is 0.747 here.",
        "#let score = 0.9",
        "#share(0.5)",
        "over three seeds",
        "(p < 0.05)",
        "n = 600",
        "a gain of 12%",
        "$ x = 2 y $",
        "#if n.count > 2.5 [many]",
    ],
)
def test_a_number_typed_by_hand_is_found(line):
    assert len(list(paper_rules.typed_numbers(f"text\n{line}\n"))) == 1


def test_names_constants_and_code_are_no_results():
    text = (
        "Biomni-R0 @shao2024 #const[95%] $const(1) - x$ #share(r0.r0_8b.all) (1fr, auto) // 3 of 4\n#if a.len() > 1 [x]"
    )
    assert list(paper_rules.typed_numbers(text)) == []


def test_a_work_that_was_not_looked_up_is_found():
    entry = "@misc{a2024,\n  title = {A},\n  year = {2024},\n  url = {https://a},\n  lookedup = {a page},\n}\n"
    assert list(paper_rules.unread_works(entry, "as @a2024 says")) == []
    assert list(paper_rules.unread_works(entry.replace("  lookedup = {a page},\n", ""), "@a2024")) == [
        "a2024: no field lookedup"
    ]
    nowhere = entry.replace("  url = {https://a},\n", "")
    assert list(paper_rules.unread_works(nowhere, "@a2024")) == ["a2024: no url or doi"]
    assert len(list(paper_rules.unread_works(entry, "@b2024"))) == 2


def test_scores_of_the_article_are_refused_when_they_cannot_be(tmp_path):
    from biomni_lib.analysis.article import ARTICLE, article_scores

    file = tmp_path / "article.toml"
    file.write_text(ARTICLE.read_text().replace("0.669", "66.9"))
    with pytest.raises(DataError, match=r"scores.all.r0_32b = 66.9: must be a named model's share"):
        article_scores(file)
    file.write_text("[scores]\n")
    with pytest.raises(DataError, match="no part instances, models, source"):
        article_scores(file)
