"""A dozen genes and a few answers in the formats of the public tier, small enough to check by hand.

Genes, synonyms, expression and variants are true rows (CC0); patients, associations, targets and scores are made up.
"""

import gzip
import json
import zipfile
from pathlib import Path

from biomni_lib.lake import public
from biomni_lib.lake.datasets import DATA_SETS
from biomni_lib.lake.sources import Source
from biomni_lib.lake.writing import replacing, write_tables

GENES = """\
## Ideogram.js gene cache for Homo sapiens
# chr\tstart\tlength\tslim_id\tsymbol\tdescription\ttop_tissues\ttop_tissues_in_gene
17\t7661779\t25759\t141510\tTP53\ttumor protein p53\t\t10,11,14
2\t241849884\t9010\t188389\tPDCD1\tprogrammed cell death 1\t\t
19\t44905791\t3602\t130203\tAPOE\tapolipoprotein E\t\t
17\t39687914\t42512\t141736\tERBB2\terb-b2 receptor tyrosine kinase 2\t\t
4\t89700345\t137970\t145335\tSNCA\tsynuclein alpha\t\t
4\t73397114\t24368\t163631\tALB\talbumin\t\t
3\t189631389\t265887\t73282\tTP63\ttumor protein p63\t\t
11\t5225464\t3931\t244734\tHBB\themoglobin subunit beta\t\t
15\t48408313\t237408\t166147\tFBN1\tfibrillin 1\t\t
15\t48645951\t6065\t259705\tFBN1-DT\tFBN1 divergent transcript\t\t
1\t3652516\t83685\t78900\tTP73\ttumor protein p73\t\t
12\t25205246\t45690\t133703\tKRAS\tKRAS proto-oncogene%2C GTPase\t\t
X\t100\t50\t22\tTWICE\ton X\t\t
Y\t100\t50\t33\tTWICE\ton Y\t\t
"""
SYNONYMS = "# symbol\tsynonyms\nTP53\tp53\tLFS1\nPDCD1\tPD1\tPD-1\nERBB2\tHER2\tHER-2\nSNCA\tPARK1\tPD1\nLOST\tPD1\n"
PARALOGS = (
    "## prefix: ENSG\nTP53\t141510\t73282\t78900\nTP63\t73282\t_TP53\t141510\nTP73\t78900\t_TP53\t141510\nONE\t5\t6\n"
)
TISSUES = """\
## tissues: Liver,AABB66,226;Whole_Blood,FF00BB,755
# gene\ttissue_metrics
ALB\t0;2128.0;15467.5;25200.0;37800.0;99050.0;29;56;60;39;18;8;7;5;1;2\t1;.17;.32;1.22;111;112;64;30;16;7;4;3;3;2
KRAS\t1;1;2;3;4;5;1;2;3;;;;;;;\t0;;.02;.03;.3;202;85;20;12;2;2;;;;1
GONE\t0;1;2;3;4;5;1;1;1;1;1;1;1;1;1;1
ALB\t0;1;2;3;4;5;1;1;1;1;1;1;1;1;1;1
"""
VARIANTS = """\
# Cache data on variants related to human health, from NCBI ClinVar
#CHROM\tPOS\tID\tREF\tALT\tDISEASE_IDS\tAF_EXAC\tCLNREVSTAT\tCLNSIG\tCLNVC\tMC\tORIGIN\tRS
11\t5227002\t15333\tT\tA\t2381,3151\t0.00438\t0\t2\t0\t4\t89\t334
19\t44908791\t126456\tGCTC\tG\t4845\t\t0\t2\t1\t12\t1\t515726148
19\t44907843\t17880\tC\tT\t4844\t0.00001\t0\t1\t0\t4\t1\t121918399
MT\t15990\t9570\tC\tT\t168\t\t1\t0\t0\t\t1
"""


def association(position: int, gene: str, confidence: str, **trait: object) -> str:
    """One record of a gold standard as a line of JSON."""
    return json.dumps(
        {
            "association_info": {"gwas_catalog_id": "GCST1", "pubmed_id": "1"},
            "gold_standard_info": {
                "evidence": [{"curated_by": "Ada"}],
                "gene_id": gene,
                "highest_confidence": confidence,
            },
            "metadata": {"set_label": "toy "},
            "sentinel_variant": {
                "alleles": {"alternative": "G", "reference": "T"},
                "locus_GRCh38": {"chromosome": "15", "position": position},
            },
            "trait_info": trait,
        }
    )


def phenopacket(id: str, *, gene: str = "FBN1", present: int = 3, excluded: int = 1) -> dict:
    """One case with Marfan syndrome; no gene when the symbol is empty."""
    context = {"geneContext": {"valueId": "HGNC:3603", "symbol": gene}} if gene else {}
    features = [{"type": {"id": f"HP:{number:07d}"}} for number in range(present)]
    features += [{"type": {"id": f"HP:{900 + number:07d}"}, "excluded": True} for number in range(excluded)]
    return {
        "id": id,
        "subject": {"id": "1", "sex": "FEMALE"},
        "phenotypicFeatures": features,
        "interpretations": [
            {
                "diagnosis": {
                    "disease": {"id": "OMIM:154700", "label": "Marfan syndrome"},
                    "genomicInterpretations": [{"variantInterpretation": {"variationDescriptor": context}}],
                }
            }
        ],
        "metaData": {"externalReferences": [{"id": "PMID:1"}]},
    }


def write_archive(path: Path, names: dict[str, dict]) -> Path:
    """A zip archive of phenopackets, by member name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for name, packet in names.items():
            archive.writestr(name, json.dumps(packet))
    return path


def write_files(folder: Path) -> dict[Source, Path]:
    """All files of the public tier, laid out as in the mirror."""
    texts = {public.GENES: GENES, public.SYNONYMS: SYNONYMS, public.PARALOGS: PARALOGS, public.VARIANTS: VARIANTS}
    texts |= {public.TISSUES: TISSUES}
    trait = {"standard_trait_name": "body height", "reported_trait_name": "Standing height"}
    height = association(48500000, "ENSG00000166147", "High", ontology=["EFO_0004339"], **trait)
    texts |= {public.GOLD_2019: height}
    texts |= {public.GOLD_2023: association(48500001, "ENSG00000259705", "Low", ontology=["EFO_1"])}
    header = "ti_uid gene indication_mesh_id indication_mesh_term ccat orphan year_launch assoc_mesh_id assoc_mesh_term"
    header += " original_trait original_link similarity l2g_share l2g_rank areas genetic_insight launched"
    row = "T-D1 HBB D1 Anemia Launched TRUE 2001 D2 Blood trait link 0.9 0.5 1 blood both TRUE"
    table = "\n".join(line.replace(" ", "\t") for line in (header, row)) + "\n"
    texts |= {public.SUPPORTED_TARGETS: table, public.PROGRAMMES: table}
    texts |= dict.fromkeys(public.SCREEN_SCORES.values(), "Gene,Score\nHBB,-2.5\nALB,1\n")
    texts |= dict.fromkeys(public.SCREEN_QUESTIONS.values(), '{"Task": "find ", "Measurement": "m"}')
    files = {source: folder / source.file for source in texts}
    for source, path in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        content = texts[source].encode()
        path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    packets = {"v1/FBN1/a.json": phenopacket("a"), "v1/FBN1/b.json": phenopacket("b", gene="")}
    return files | {public.PHENOPACKETS: write_archive(folder / public.PHENOPACKETS.file, packets)}


def build_toy_public(lake_dir: Path, files: dict[Source, Path]) -> None:
    """The public tier beside a lake, built from these files whatever their checksums."""
    for data_set in DATA_SETS:
        tables, arrays = data_set.build(files)
        with replacing(data_set.folder(lake_dir)) as staging:
            write_tables(tables, staging, data_set.sources, arrays)
