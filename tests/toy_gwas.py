"""A made-up genome with its associations, drug targets and screens, small enough to know every right answer.

Chromosomes 1, 11 and 4 (one a split) carry 30 coding genes each, every 100 kb from 2 Mb on, 20 kb long, and an RNA gene
behind every fifth. Gene n of chromosome c is called `Gc_n`.
"""

import gzip
import json
from pathlib import Path

from biomni_lib.lake import public
from tests.toy_public import build_toy_public, write_files

CHROMOSOMES = ("1", "11", "4")
GENES, FIRST_BP, STEP_BP, LENGTH_BP = 30, 2_000_000, 100_000, 20_000
SCREEN_GENES = [f"G{c}_{n}" for c in CHROMOSOMES for n in range(GENES)]


def start(number: int) -> int:
    """Where gene `number` of a chromosome begins."""
    return FIRST_BP + STEP_BP * number


def ensembl_id(chromosome: str, number: int) -> str:
    """Id of a coding gene."""
    return f"ENSG{_slim(chromosome, number):011d}"


def build_toy(lake_dir: Path, folder: Path) -> None:
    """The toy public tier beside a lake."""
    files = write_files(folder)
    texts = {public.GENES: _genes(), public.GOLD_2019: _gold_2019(), public.GOLD_2023: _gold_2023()}
    texts |= {public.SUPPORTED_TARGETS: _targets(supported=True), public.PROGRAMMES: _targets(supported=False)}
    texts |= {source: _screen(name) for name, source in public.SCREEN_SCORES.items()}
    for source, text in texts.items():
        content = text.encode()
        files[source].write_bytes(gzip.compress(content, mtime=0) if files[source].suffix == ".gz" else content)
    build_toy_public(lake_dir, files)


def _slim(chromosome: str, number: int) -> int:
    return 1000 * int(chromosome) + number


def _genes() -> str:
    rows = []
    for c in CHROMOSOMES:
        for n in range(GENES):
            rows.append(f"{c}\t{start(n)}\t{LENGTH_BP - 1}\t{_slim(c, n)}\tG{c}_{n}\tenzyme number{n} of {c}\t\t")
        for n in range(0, GENES, 5):
            rows.append(f"{c}\t{start(n) + 50_000}\t99\t{_slim(c, 500 + n)}\tMIR{c}_{n}\tmicroRNA {n}\t\t")
    return "\n".join(["# genes", *rows]) + "\n"


def association(chromosome: str, position: int, gene: str, trait: str, **more: object) -> str:
    """One record of a gold standard as a line of JSON; `ontology`, `study`, `label`, `rsid`, `confidence` in `more`."""
    sentinel = {
        "alleles": {"alternative": "G", "reference": "T"},
        "locus_GRCh38": {"chromosome": chromosome, "position": position},
    }
    names = {"standard_trait_name": trait} if trait else {}
    record = {
        "association_info": {"otg_id": more.get("study", "GCST1")},
        "gold_standard_info": {"gene_id": gene, "highest_confidence": more.get("confidence", "High")},
        "metadata": {"set_label": more.get("label", "toy")},
        "sentinel_variant": sentinel | ({"rsid": more["rsid"]} if "rsid" in more else {}),
        "trait_info": {"ontology": more.get("ontology", ["EFO_0000001"]), **names},
    }
    return json.dumps(record)


def _gold_2019() -> str:
    """On each chromosome: genes 0 to 9 behind a sentinel 30 kb behind their start, each of its own trait and with an
    rsID; and what must not be asked: a locus of low confidence, one with two genes, one too far from its gene."""
    lines = []
    for c in CHROMOSOMES:
        for n in range(10):
            more = {"rsid": f"rs{_slim(c, n)}", "ontology": [f"EFO_{n:07d}"]}
            lines.append(association(c, start(n) + 30_000, ensembl_id(c, n), f"trait {n}", **more))
        lines.append(association(c, start(3), ensembl_id(c, 3), "doubtful", confidence="Low"))
        lines += [association(c, start(5), ensembl_id(c, n), "shared") for n in (5, 6)]
        lines.append(association(c, start(0), ensembl_id(c, 6), "far"))
    return "\n".join(lines)


def _gold_2023() -> str:
    """On each chromosome: gene 25, free, under four ontology ids; gene 3, used; gene 12, free but near; another set."""
    lines = []
    for c in CHROMOSOMES:
        for at, (id, study) in enumerate(
            [("EFO_0000003", "A"), ("HP_0001250", "A"), ("MONDO_1", "GCST7_2"), ("MONDO_2", "A")]
        ):
            more = {"ontology": [id], "study": study, "label": "ot_platform"}
            lines.append(association(c, start(25) + at, ensembl_id(c, 25), "", **more))
        lines.append(association(c, start(29), ensembl_id(c, 3), "", label="ot_platform"))
        lines.append(association(c, start(12), ensembl_id(c, 12), "", label="ot_platform"))
        lines.append(association(c, start(26), ensembl_id(c, 26), "", label="otg_original"))
    return "\n".join(lines)


def _targets(*, supported: bool) -> str:
    """Genes 0 to 14 are supported targets for disease n; gene 1 is another target for disease 0; LOST is no gene."""
    header = "ti_uid gene indication_mesh_id indication_mesh_term ccat orphan year_launch assoc_mesh_id assoc_mesh_term"
    header += " original_trait original_link similarity l2g_share l2g_rank areas genetic_insight launched"
    pairs = [(f"G{c}_{n}", f"disease{n}") for c in CHROMOSOMES for n in range(15)] + [("LOST", "disease1")]
    pairs += [] if supported else [(f"G{c}_1", "disease0") for c in CHROMOSOMES]
    row = "{0}-{1} {0} {1} {1} Launched TRUE 2001 D2 Blood told x/study/GCST7_2 0.9 0.5 1 blood both TRUE"
    lines = [header, *(row.format(*pair) for pair in pairs)]
    return "\n".join(line.replace(" ", "\t") for line in lines) + "\n"


def ranked_genes(name: str) -> list[str]:
    """The 90 genes of a screen, strongest first; in each screen others lead."""
    shift = 7 * sorted(public.SCREEN_SCORES).index(name)
    return SCREEN_GENES[shift:] + SCREEN_GENES[:shift]


def _screen(name: str) -> str:
    """80 controls that are no genes, then 90 genes of both signs, then 70 controls: 20 genes are among the 100
    strongest, 20 are between these and the weaker half of 120, and 50 in it."""
    rows = [f"strong{n},{1000 + n}" for n in range(80)] + [f"weak{n},0.5" for n in range(70)]
    rows += [f"{gene},{(90 - n) * (-1) ** n}" for n, gene in enumerate(ranked_genes(name))]
    return "\n".join(["Gene,Score", *rows]) + "\n"
