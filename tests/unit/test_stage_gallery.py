import base64
import hashlib
import json
import shutil
import struct

import pandas as pd
import pytest

from biomni_lib import figures
from biomni_lib.analysis.budgets import ASKED
from biomni_lib.errors import DataError, RunError
from biomni_lib.evaluate import rows_file
from biomni_lib.provenance import write_manifest
from biomni_lib.stages import budgets, cards, citation, gallery, pages, paper, publication, results, summary, verify
from biomni_lib.stages.drawings import Drawing, save_drawings
from biomni_lib.stages.paths import paths
from tests.toy_results import save_evaluation

SCORES = pd.DataFrame(
    {
        "task": "all",
        "model": ["overlap", "sft", "rl"],
        "score": [0.9, 0.5, 0.8],
        "ci_low": [0.8, 0.4, 0.7],
        "ci_high": [0.95, 0.6, 0.9],
        "n": [40, 40, 80],
        "seeds": [3, 3, 3],
    }
)


@pytest.fixture
def folder(tmp_path):
    title = "Scores <of> a & b"
    loss = pd.DataFrame({"step": range(8), "sft/loss": [1 / (1 + step) for step in range(8)]})
    made = [
        Drawing.make("headline", figures.headline, SCORES, title),
        Drawing.make("sft-loss", figures.loss_curve, loss, "Loss"),
    ]
    save_drawings(made, tmp_path / "figures")
    return tmp_path / "figures"


def test_every_figure_is_in_the_page_with_caption_files_facts_and_how_to_cite(folder):
    page = gallery.write_gallery(folder, preset="smoke", seed=4).read_text(encoding="utf-8")
    for name in ("headline", "sft-loss"):
        assert f'<article id="{name}">' in page
        for kind in gallery.KINDS:
            assert f'<a href="{name}.{kind}" download>' in page and (folder / f"{name}.{kind}").is_file()
    assert "Scores &lt;of&gt; a &amp; b. n = 40 to 80 instances a point. 3 seeds. 95% bootstrap intervals" in page
    assert "<of>" not in page
    assert "<dt>seeds</dt><dd>3</dd>" in page and "<dt>seeds</dt><dd>1 (seed 4)</dd>" in page
    assert "<dt>interval</dt><dd>none drawn</dd>" in page and "<dt>n</dt><dd>8 steps</dd>" in page
    sha256 = hashlib.sha256((folder / "headline.csv").read_bytes()).hexdigest()
    assert f"data {sha256[:12]}" in page and sha256 in page and "@misc{biomni_r0_sft_loss," in page


def test_the_page_holds_its_pictures_and_asks_nothing_of_the_network(folder):
    page = gallery.write_gallery(folder, preset="smoke", seed=0).read_text(encoding="utf-8")
    assert "http" not in page and "<script" not in page and "<link" not in page
    assert base64.b64encode((folder / "sft-loss.svg").read_bytes()).decode() in page


def test_the_same_figures_give_the_same_bytes(folder):
    first = gallery.write_gallery(folder, preset="smoke", seed=0).read_bytes()
    assert gallery.write_gallery(folder, preset="smoke", seed=0).read_bytes() == first


def test_a_figure_that_is_not_whole_is_named(folder, tmp_path):
    with pytest.raises(DataError, match=r"nothing: no figures; draw them first \(make figures PRESET=smoke\)"):
        gallery.write_gallery(tmp_path / "nothing", preset="smoke", seed=0)
    (folder / "sft-loss.csv").write_text("step,loss\n")
    with pytest.raises(DataError, match=r"sft-loss.csv: no rows"):
        gallery.write_gallery(folder, preset="smoke", seed=0)
    (folder / "headline.pdf").unlink()
    (folder / "headline.txt").unlink()
    with pytest.raises(DataError, match=r"headline.pdf, headline.txt missing; draw the figures again"):
        gallery.write_gallery(folder, preset="smoke", seed=0)


def test_how_to_cite_comes_from_the_citation_file(tmp_path):
    cited = citation.citation()
    assert citation.cite_code(cited, "abcdef" * 8).endswith(f"Version {cited['version']}, code abcdefabcdef.")
    assert citation.bibtex_code(cited, "abc").startswith("@misc{biomni_r0_reproduction,\n  title = {")
    assert citation.cite_data(cited, "0" * 64).count("0" * 12) == 1
    file = tmp_path / "CITATION.cff"
    with pytest.raises(DataError, match=r"CITATION.cff: cannot be read \(FileNotFoundError\)"):
        citation.citation(file)
    file.write_text("title: A\nauthors:\n  - given-names: Ada\n    family-names: B\nversion: 1\n")
    with pytest.raises(DataError, match="no field license"):
        citation.citation(file)
    file.write_text(file.read_text() + "license: MIT\n")
    assert citation.authors(citation.citation(file)) == "Ada B"


@pytest.fixture
def run(config, lake_dir, monkeypatch, tmp_path):
    """A finished run in small: files where the stages leave them, and their manifests."""
    here = paths(config)
    shutil.copytree(lake_dir, config.lake_dir)
    here.data.mkdir(parents=True)
    (here.data / "train.parquet").write_text("instances")
    header = json.dumps({"a": {"dtype": "F32", "shape": [3, 5]}, "__metadata__": {}}).encode()
    for model in (here.sft_model, here.rl_model):
        model.mkdir(parents=True)
        (model / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(60))
        (model / "config.json").write_text('{"model_type": "qwen3"}')
    save_evaluation(config)
    made = {"build_data": [here.data], "sft": [here.sft_model], "rl": [here.rl_model], "evaluate": [here.evaluate]}
    told = {"build_data": {"instances": {"train": 8}}, "sft": {"sampled": 30, "kept": 12}}
    for stage, outputs in made.items():
        write_manifest(config, stage, outputs=outputs, seconds=61.0, results=told.get(stage))
    (tmp_path / "README.md").write_text(f"{summary.BLOCK_START}\n{summary.BLOCK_END}\n")
    monkeypatch.setattr(results, "results_dir", lambda: tmp_path / "results")
    monkeypatch.setattr(cards, "results_dir", lambda: tmp_path / "results")
    monkeypatch.setattr(publication, "project_root", lambda: tmp_path)
    return config


def test_cards_say_what_the_manifests_and_results_say(run, tmp_path, capsys):
    files = {file.name for file in publication.publish(run)}
    assert {"model-card-smoke.md", "data-card-smoke.md", "index.html", "headline.svg", "summary-smoke.json"} <= files
    assert "figure rl-learning-curves not published" in capsys.readouterr().out
    card = (tmp_path / "results" / "model-card-smoke.md").read_text(encoding="utf-8")
    assert "Qwen3, 15 parameters" in card and "12 of 30 trajectories accepted" in card
    assert "| all | rl | 0.800 | " in card and "the heuristic `overlap` scores above the RL" in card
    weights = hashlib.sha256((paths(run).rl_model / "model.safetensors").read_bytes()).hexdigest()
    assert f"`smoke/rl/model/model.safetensors`: {weights}" in card
    assert card.count("| 61 |") == 4 and "more than one state of the code" not in card
    data = (tmp_path / "results" / "data-card-smoke.md").read_text(encoding="utf-8")
    assert "train 8" in data and "## Source: Human Phenotype Ontology" in data and "HPO licence" in data


def test_figures_of_the_run_are_published_with_it_and_refused_in_part(run, folder, tmp_path):
    steps = pd.DataFrame({"step": range(6), "reward/correctness": 0.5, "reward/format": 0.9})
    made = Drawing.make("rl-learning-curves", figures.learning_curves, steps, "Reward")
    save_drawings([made], paths(run).figures)
    files = {file.name for file in publication.publish(run)}
    assert {f"rl-learning-curves.{kind}" for kind in (*gallery.KINDS, "txt")} <= files
    (paths(run).figures / "rl-learning-curves.csv").unlink()
    with pytest.raises(DataError, match=r"rl-learning-curves.csv is missing beside its figure"):
        publication.publish(run)


def test_answers_under_budgets_are_published_with_the_run_that_has_them(run, tmp_path, capsys):
    file = tmp_path / "results" / "budgets-smoke.parquet"
    assert file not in publication.publish(run)
    assert "answers under budgets not published: the run has none" in capsys.readouterr().out
    free = pd.read_parquet(rows_file(paths(run).evaluate, "rl"))
    parts = [free.assign(unit=unit, budget=float(size), told=True) for unit, size in budgets.doses(run)]
    parts.append(free.assign(unit="none", budget=float("nan"), told=False))
    paths(run).length.mkdir(parents=True)
    pd.concat(parts).to_parquet(budgets.budgets_file(run))
    assert file in publication.publish(run)
    first, kept = file.read_bytes(), pd.read_parquet(file)
    assert list(kept.columns) == ASKED and len(kept) == len(parts) * len(free)
    assert results.made_with(file)["length.turns"] == list(run.length.turns)
    publication.publish(run)
    assert file.read_bytes() == first


@pytest.fixture
def published(run, tmp_path, monkeypatch):
    """That run with everything published; the folder of the published results beside its README."""
    monkeypatch.setattr(paper, "results_dir", lambda: tmp_path / "results")
    monkeypatch.setattr(pages, "results_dir", lambda: tmp_path / "results")
    monkeypatch.setattr(pages, "project_root", lambda: tmp_path)
    publication.publish(run)
    results.publish_seeds(run, [run.seed])
    return run


@pytest.fixture
def no_paper(monkeypatch):
    """As where the package typst is not installed: setting the paper takes seconds."""
    monkeypatch.setattr(paper, "available", lambda: False)


def checks(config, *, of_this_run=True):
    return {c.what: c for c in pages.check_pages(config, verify.published(config), of_this_run=of_this_run)}


@pytest.mark.skipif(not paper.available(), reason="the package typst is not installed")
def test_published_pages_are_made_again_and_what_was_changed_is_named(published, tmp_path):
    paper.publish(published)
    found = checks(published)
    assert set(found) == {
        "README.md, block of results",
        "results/figures-smoke/index.html",
        "results/paper-smoke.pdf",
        "results/model-card-smoke.md",
        "results/data-card-smoke.md",
    }
    assert all(check.met for check in found.values()), found
    changed = {
        "README.md": (b"0.800", b"0.900"),
        "results/figures-smoke/index.html": (b"Score", b"Marks"),
        "results/paper-smoke.pdf": (b"%PDF-1.7", b"%PDF-1.6"),
        "results/model-card-smoke.md": (b"| all | rl | 0.800", b"| all | rl | 0.900"),
        "results/data-card-smoke.md": (b"train 8", b"train 9"),
    }
    for name, (old, new) in changed.items():
        there = (tmp_path / name).read_bytes()
        assert old in there
        (tmp_path / name).write_bytes(there.replace(old, new))
    found = checks(published)
    assert len(found) == 5 and not any(check.met for check in found.values())
    assert all("stages publish --preset smoke" in check.remedy for check in found.values())
    assert found["results/model-card-smoke.md"].found == "others in What they score"
    assert found["results/data-card-smoke.md"].found == "others in Instances"
    for name in changed:
        (tmp_path / name).unlink()
    assert [check.found for check in checks(published).values()] == ["missing"] * 4  # nothing promises a README


def test_of_another_run_only_what_follows_from_settings_and_results_must_be_the_same(published, no_paper):
    file = paths(published).manifests / "rl.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"seconds": 99.0}))
    card = "results/model-card-smoke.md"
    assert checks(published)[card].found == "others in How it was run"
    assert checks(published, of_this_run=False)[card].met
    (paths(published).rl_model / "model.safetensors").unlink()
    found = checks(published, of_this_run=False)[card]
    assert not found.met and "stage rl: output smoke/rl/model/model.safetensors is missing" in found.found


def test_verification_prints_each_miss_with_its_remedy(published, no_paper, tmp_path, capsys):
    (tmp_path / "results" / "data-card-smoke.md").unlink()
    assert not verify.run(published)
    said = capsys.readouterr().out
    assert "MISS  results/paper-smoke.pdf: typst is not installed" in said and "      remedy: make setup" in said
    assert "ok    all, rl: score 0.8" in said and "ok    results/model-card-smoke.md: the same" in said
    assert "MISS  results/data-card-smoke.md: missing" in said and "      remedy: python -m biomni_lib.stages" in said
    manifest = paths(published).manifests / "sft.json"
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"lock_hash": "0", "code_hash": "f" * 64}))
    verify.run(published)
    said = capsys.readouterr().out
    assert "note: stage sft was made by code ffffffffffff, which is now" in said
    assert "with another lock than that of this environment" in said
    manifest.write_text(json.dumps(json.loads(manifest.read_text()) | {"preset": "gpu-8b"}))
    assert not verify.run(published)
    assert "MISS  folder: " in (said := capsys.readouterr().out) and "stage sft was run by preset gpu-8b" in said


def test_a_card_of_an_unfinished_or_altered_run_is_refused(run):
    (paths(run).sft_model / "model.safetensors").write_bytes(b"other")
    with pytest.raises(RunError, match=r"stage sft: output .* changed; run `make reproduce PRESET=smoke`"):
        cards.model_card(run, {"tasks": {}, "code": "0"})
    with pytest.raises(DataError, match=r"model.safetensors: cannot be read as weights"):
        cards.parameters(paths(run).sft_model)
