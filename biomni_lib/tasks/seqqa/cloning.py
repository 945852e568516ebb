"""Five kinds of question about putting a gene into a vector, by restriction sites or by Gibson assembly.

A design is right when the simulated experiment says so: the PCR is run on the template (`pcr.amplicon`), its product
cut or joined, and the insert compared with what was asked. Options are made so that none is central among them. Primers
for sites have a pad of four bases before the site, as enzymes need. Not covered: reading frames into a tag,
methylation, and homology arms other than `ARM` bases.
"""

from itertools import product

import numpy as np
from Bio.Seq import Seq

from biomni_lib.tasks.choices import Question
from biomni_lib.tasks.seqqa.frames import RULE, coding_strand, longest_frame
from biomni_lib.tasks.seqqa.pcr import BINDING, amplicon, three_shifts, written
from biomni_lib.tasks.seqqa.pool import BLUNT, STICKY, SequencePool, Vector, enzyme, reverse_complement

TEMPLATE = 240
PAD = 4
FLANK = 12
ARM = 15
"""Bases of each vector end that a Gibson primer repeats."""
AROUND = 24
PADS = ("GACT", "TCAG", "AGTC", "CTGA", "ATGC", "TAGC")
Pair = tuple[str, str]

_BETWEEN = "The insert reads from the first site to the second, with nothing between site and insert."


def gene_enzyme_primers(pool: SequencePool, rng: np.random.Generator) -> Question | None:
    """Which primers put the longest frame of a sequence between two sites of a vector."""
    template, gene = _template_and_gene(pool, rng)
    if not gene:
        return None
    asked = "clones exactly the longest ORF of the template, start to stop codon, between the two sites?"
    return _between_sites(pool, rng, template, gene, f"{asked} {_BETWEEN} {RULE}.")


def sequence_enzyme_primers(pool: SequencePool, rng: np.random.Generator) -> Question | None:
    """The same for a stretch of the sequence shown."""
    template = pool.window(rng, int(rng.integers(110, 201))).text
    insert = template[FLANK:-FLANK]
    text = (
        f"clones exactly bases {FLANK + 1} to {len(template) - FLANK} of the template between the two sites? {_BETWEEN}"
    )
    return _between_sites(pool, rng, template, insert, text)


def primers_enzymes(pool: SequencePool, rng: np.random.Generator) -> Question | None:
    """Which enzymes cut the product of given primers for a vector. Wrong: other single cutters of the vector."""
    vector = pool.vector(rng)
    insert = pool.window(rng, 120).text
    names = [str(name) for name in rng.permutation(sorted(vector.cuts))[:5]]
    if _site(names[0]) == _site(names[3]) or not _free(insert, names):
        return None
    pair = _tailed(insert, names[0], names[3], rng)
    made = amplicon(insert, *pair)
    if made is None or any(_cuts(made, name) for name in (names[1], names[2], names[4])):
        return None
    options = {option: cloned(made, *option) == insert for option in product(names[:3], names[3:])}
    if [option for option, right in options.items() if right] != [(names[0], names[3])]:
        return None
    facts = {
        "Vector": f"{vector.describe()}, cut once each by {', '.join(sorted(vector.cuts))}",
        "Forward primer": pair[0],
        "Reverse primer": pair[1],
    }
    text = "with which enzymes (forward primer's + reverse primer's) are the PCR product and the vector cut?"
    wrong = tuple(written(option) for option, right in options.items() if not right)
    return Question(text, facts, written((names[0], names[3])), wrong, {"record": vector.record.name, "insert": insert})


def gibson_sticky_primers(pool: SequencePool, rng: np.random.Generator) -> Question | None:
    """Which primers amplify a gene for Gibson assembly into a vector cut by an enzyme that leaves 5' overhangs."""
    return _gibson(
        pool,
        rng,
        [name for name in STICKY if enzyme(name).ovhg < 0],
        "with 5' overhangs, which the exonuclease removes",
    )


def gibson_blunt_primers(pool: SequencePool, rng: np.random.Generator) -> Question | None:
    """The same for a vector that is cut blunt."""
    return _gibson(pool, rng, list(BLUNT), "leaving blunt ends")


def cloned(made: str | None, first: str, second: str) -> str | None:
    """What lies between the sites of two enzymes in a PCR product: pad, first site, insert, second site, pad.

    Returns: the insert, or None when there is no product, it has another form, or an enzyme cuts it elsewhere too.
    """
    head, tail = _site(first), _site(second)
    if made is None or not made[PAD:].startswith(head) or not made[:-PAD].endswith(tail):
        return None
    alone = len(_cuts(made, first)) == len(_cuts(made, second)) == 1
    return made[PAD + len(head) : -PAD - len(tail)] if alone else None


def vector_ends(vector: Vector, name: str) -> Pair:
    """The last `ARM` bases before a cut and the first after it that stay double-stranded once 5' overhangs are gone."""
    cut = vector.cuts[name]
    left, right = vector.around(cut, ARM)[:ARM], vector.around(cut + abs(enzyme(name).ovhg), ARM)[-ARM:]
    return left, right


def _gibson(pool: SequencePool, rng: np.random.Generator, allowed: list[str], ends: str) -> Question | None:
    vector = pool.vector(rng)
    names = [
        name
        for name in allowed
        if name in vector.cuts and AROUND < vector.cuts[name] < len(vector.record.sequence) - AROUND
    ]
    template, gene = _template_and_gene(pool, rng)
    if not names or not gene:
        return None
    name = str(rng.choice(names))
    left, right = vector_ends(vector, name)
    options = {pair: amplicon(template, *pair) for pair in _gibson_pairs(gene, left, right, rng)}
    good = [pair for pair, made in options.items() if made == left + gene + right]
    if len(good) != 1:
        return None
    text = (
        "which primer pair (forward + reverse) amplifies the longest ORF of the template, start to stop codon, for "
        f"Gibson assembly into the vector, cut once by {name} {ends}? Each arm is {ARM} bases; nothing lies between "
        f"arm and ORF; the ORF reads along the vector strand shown. {RULE}."
    )
    shown = vector.around(vector.cuts[name], AROUND)
    facts = {"Template": template, "Vector": f"{vector.describe()}, around the {name} site: {shown}"}
    wrong = tuple(written(pair) for pair in options if pair != good[0])
    return Question(text, facts, written(good[0]), wrong, {"record": vector.record.name, "enzyme": name, "gene": gene})


def _gibson_pairs(gene: str, left: str, right: str, rng: np.random.Generator) -> list[Pair]:
    """The right pair and likely mistakes: the other end's arm, an arm on the wrong strand, an arm behind the primer."""
    start, end = gene[:BINDING], reverse_complement(gene[-BINDING:])
    forwards = [right + start, reverse_complement(left) + start, reverse_complement(right) + start, start + left]
    reverses = [left + end, reverse_complement(left) + end, right + end, end + reverse_complement(right)]
    chosen = [forwards[place] for place in rng.choice(len(forwards), size=2, replace=False)]
    return list(product([left + start, *chosen], [reverse_complement(right) + end, str(rng.choice(reverses))]))


def _between_sites(
    pool: SequencePool, rng: np.random.Generator, template: str, insert: str, asked: str
) -> Question | None:
    vector = pool.vector(rng)
    names = [str(name) for name in rng.permutation([name for name in STICKY if name in vector.cuts])[:2]]
    if len(names) < 2 or _overhang(names[0]) == _overhang(names[1]) or not _free(insert, names):
        return None
    first, second = sorted(names, key=lambda name: vector.cuts[name])
    pairs = _site_pairs(template, insert, first, second, rng)
    good = [pair for pair in pairs if cloned(amplicon(template, *pair), first, second) == insert]
    if len(good) != 1 or len(set(pairs)) < len(pairs):
        return None
    facts = {
        "Vector": f"{vector.describe()}, cut once by {first} and further on once by {second}",
        "Template": template,
    }
    wrong = tuple(written(pair) for pair in pairs if pair != good[0])
    meta = {"record": vector.record.name, "enzymes": [first, second], "insert": insert}
    return Question(f"which primer pair (forward + reverse) {asked}", facts, written(good[0]), wrong, meta)


def _site_pairs(template: str, insert: str, first: str, second: str, rng: np.random.Generator) -> list[Pair]:
    """Three ways to bind, two of them displaced, each in two versions: as it should be, and with the sites exchanged or
    the reverse primer on the wrong strand."""
    strand = template if insert in template else reverse_complement(template)
    start = strand.index(insert)
    ends = [(start + shift, start + len(insert) + shift) for shift in three_shifts(rng)]
    pads = [str(pad) for pad in rng.choice(PADS, size=2, replace=False)]
    head, tail = pads[0] + _site(first), pads[1] + _site(second)
    binds = [(strand[begin : begin + BINDING], strand[end - BINDING : end]) for begin, end in ends]
    right = [(head + ahead, tail + reverse_complement(behind)) for ahead, behind in binds]
    if rng.random() < 0.5:
        return right + [(head + ahead, tail + behind) for ahead, behind in binds]
    exchanged = pads[0] + _site(second), pads[1] + _site(first)
    return right + [(exchanged[0] + ahead, exchanged[1] + reverse_complement(behind)) for ahead, behind in binds]


def _tailed(insert: str, first: str, second: str, rng: np.random.Generator) -> Pair:
    """Primers for an insert's ends, with pad and site before the bases that bind."""
    pads = [str(pad) for pad in rng.choice(PADS, size=2, replace=False)]
    forward = pads[0] + _site(first) + insert[:BINDING]
    return forward, pads[1] + _site(second) + reverse_complement(insert[-BINDING:])


def _template_and_gene(pool: SequencePool, rng: np.random.Generator) -> tuple[str, str]:
    """A window and its longest frame from start to stop codon; no gene when the frame is not clear or at the edge."""
    window = pool.window(rng, TEMPLATE)
    frame = longest_frame(window.text, 20, 60)
    if frame is None or frame.start < FLANK or frame.end > TEMPLATE - FLANK:
        return window.text, ""
    return window.text, coding_strand(window.text, frame)[frame.start : frame.end]


def _site(name: str) -> str:
    return enzyme(name).site


def _overhang(name: str) -> tuple[int, str]:
    """What ends an enzyme leaves: equal ones can be joined in either direction."""
    kind = enzyme(name)
    reach = abs(kind.ovhg)
    inner = kind.site[(len(kind.site) - reach) // 2 : (len(kind.site) + reach) // 2]
    return kind.ovhg, inner


def _cuts(text: str, name: str) -> list[int]:
    return [cut - 1 for cut in enzyme(name).search(Seq(text))]


def _free(insert: str, names: list[str]) -> bool:
    return not any(_cuts(insert, name) for name in names)
