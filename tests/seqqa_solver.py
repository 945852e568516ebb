"""A second way to answer the sequence questions: plain Python over the prompt alone, without Biopython or the library.

`right_letters(kind, prompt)` returns every letter whose option is right. Recognition sites are written out here, the
cut marked, as the suppliers' catalogues print them.
"""

import re
from collections.abc import Callable

_SITES = """
AluI AG^CT HaeIII GG^CC RsaI GT^AC MspI C^CGG HhaI GCG^C TaqI T^CGA MseI T^TAA NlaIII CATG^ MboI ^GATC MluCI ^AATT
HinfI G^ANTC DdeI C^TNAG BfaI C^TAG HpyCH4IV A^CGT
EcoRI G^AATTC BamHI G^GATCC HindIII A^AGCTT XhoI C^TCGAG KpnI GGTAC^C SacI GAGCT^C NdeI CA^TATG PstI CTGCA^G
SalI G^TCGAC XbaI T^CTAGA SpeI A^CTAGT NcoI C^CATGG BglII A^GATCT NheI G^CTAGC ClaI AT^CGAT MluI A^CGCGT AflII C^TTAAG
AvrII C^CTAGG BspHI T^CATGA SphI GCATG^C ApaI GGGCC^C AatII GACGT^C NotI GC^GGCCGC AscI GG^CGCGCC XmaI C^CCGGG
AgeI A^CCGGT EagI C^GGCCG BsiWI C^GTACG PacI TTAAT^TAA PciI A^CATGT
SmaI CCC^GGG EcoRV GAT^ATC StuI AGG^CCT ScaI AGT^ACT SspI AAT^ATT PvuII CAG^CTG HpaI GTT^AAC DraI TTT^AAA NruI TCG^CGA
MscI TGG^CCA FspI TGC^GCA SnaBI TAC^GTA PmlI CAC^GTG SwaI ATTT^AAAT AfeI AGC^GCT ZraI GAC^GTC PsiI TTA^TAA
"""
ENZYMES = dict(zip(_SITES.split()[::2], _SITES.split()[1::2], strict=True))
CODE = {
    first + second + third: residue
    for (first, second, third), residue in zip(
        ((a, b, c) for a in "TCAG" for b in "TCAG" for c in "TCAG"),
        "FFLLSSSSYY**CC*WLLLLPPPPHHQQRRRRIIIMTTTTNNKKSSRRVVVVAAAADDEEGGGG",
        strict=True,
    )
}
_THREE = "Ala Cys Asp Glu Phe Gly His Ile Lys Leu Met Asn Pro Gln Arg Ser Thr Val Trp Tyr"
THREE = dict(zip("ACDEFGHIKLMNPQRSTVWY", _THREE.split(), strict=True))


def other_strand(text: str) -> str:
    return "".join({"A": "T", "C": "G", "G": "C", "T": "A"}[base] for base in reversed(text))


def site(name: str) -> str:
    return ENZYMES[name].replace("^", "")


def cuts(text: str, name: str, circular: bool = False) -> list[int]:
    """Bases before which an enzyme cuts the top strand; sites of all enzymes here read the same on both strands."""
    pattern = re.compile("(?=" + site(name).replace("N", "[ACGT]") + ")")
    round_trip = text + text[: len(site(name)) - 1] if circular else text
    found = [match.start() + ENZYMES[name].index("^") for match in pattern.finditer(round_trip)]
    return [cut % len(text) for cut in found] if circular else found


def products(text: str) -> list[tuple[str, str]]:
    """Product and coding sequence (stop included) of every ORF, found codon by codon."""
    found = []
    for strand in (text, other_strand(text)):
        stops: set[int] = set()
        for start in range(len(strand) - 2):
            if strand[start : start + 3] != "ATG":
                continue
            for at in range(start, len(strand) - 2, 3):
                if CODE[strand[at : at + 3]] == "*":
                    if at not in stops:
                        stops.add(at)
                        coding = strand[start : at + 3]
                        codons = (coding[i : i + 3] for i in range(0, len(coding) - 3, 3))
                        found.append(("".join(CODE[codon] for codon in codons), coding))
                    break
    return found


def longest(text: str) -> tuple[str, str]:
    ranked = sorted(products(text), key=lambda one: -len(one[0]))
    assert len(ranked) == 1 or len(ranked[0][0]) > len(ranked[1][0])
    return ranked[0]


def pcr(template: str, forward: str, reverse: str) -> str:
    """The product on whichever strand the first primer binds; empty when the pair does not face each other."""
    for strand in (template, other_strand(template)):
        start, end = strand.find(forward[-18:]), strand.find(other_strand(reverse[-18:]))
        if start >= 0 and end >= start:
            assert strand.count(forward[-18:]) == strand.count(other_strand(reverse[-18:])) == 1
            return forward[:-18] + strand[start : end + 18] + other_strand(reverse[:-18])
    return ""


def right_letters(kind: str, prompt: str) -> list[str]:
    """Every letter of a prompt whose option is right."""
    lines = dict(re.findall(r"^([^:\n]+): (.+)$", prompt, re.MULTILINE))
    options = {letter: lines[letter] for letter in "abcdef"}
    return [letter for letter, option in options.items() if _SOLVERS[kind](lines, option, list(options.values()))]


Lines = dict[str, str]


def _gc(lines: Lines, option: str, options: list[str]) -> bool:
    text = lines["Sequence"]
    return abs(int(option) - 100 * (text.count("G") + text.count("C")) / len(text)) < 0.5


def _sizes(lines: Lines) -> list[int]:
    text, circular = lines["Sequence"], "circular DNA" in lines["Task"]
    places = sorted(cut for name in lines["Enzymes"].split(" and ") for cut in cuts(text, name, circular))
    pieces, at = [], 0
    for place in places:
        pieces.append(place - at)
        at = place
    pieces.append(len(text) - at)
    if circular and places:
        pieces[0] += pieces.pop()
    return sorted(pieces, reverse=True)


def _residue(lines: Lines, option: str, options: list[str]) -> bool:
    number = int(re.search(r"number (\d+) \(M", lines["Task"])[1])
    return THREE[longest(lines["Sequence"])[0][number - 1]] == option


def _count(lines: Lines, option: str, options: list[str]) -> bool:
    threshold = int(re.search(r"more than (\d+) amino", lines["Task"])[1])
    return int(option) == sum(len(protein) > threshold for protein, _ in products(lines["Sequence"]))


def _start(lines: Lines, option: str, options: list[str]) -> bool:
    def fit(context: str) -> int:
        assert context[9:12] == "ATG"
        return (context[6] in "AG") + (context[12] == "G")

    return fit(option) == max(map(fit, options))


def _length(lines: Lines, option: str, options: list[str]) -> bool:
    return int(option) == len(pcr(lines["Template"], lines["Forward primer"], lines["Reverse primer"]))


def _pair_of_length(lines: Lines, option: str, options: list[str]) -> bool:
    wanted = int(re.search(r"product of (\d+) bp", lines["Task"])[1])
    return len(pcr(lines["Template"], *option.split(" + "))) == wanted


def _stretch(lines: Lines) -> str:
    start, end = map(int, re.search(r"bases (\d+) to (\d+) of the template", lines["Task"]).groups())
    return lines["Template"][start - 1 : end]


def _pair_of_region(lines: Lines, option: str, options: list[str]) -> bool:
    return pcr(lines["Template"], *option.split(" + ")) == _stretch(lines)


def _between(insert: str, lines: Lines, option: str) -> bool:
    """Four bases, first site, insert, second site, four bases; neither site anywhere else."""
    first, second = re.search(r"once by (\w+) and further on once by (\w+)", lines["Vector"]).groups()
    made = pcr(lines["Template"], *option.split(" + "))
    alone = made.count(site(first)) == made.count(site(second)) == 1
    return alone and made[4:-4] == site(first) + insert + site(second)


def _enzymes(lines: Lines, option: str, options: list[str]) -> bool:
    """The first enzyme's site stands in the forward primer, the second's in the reverse one; both cut the vector."""
    first, second = option.split(" + ")
    single = lines["Vector"].split("cut once each by ")[1].split(", ")
    in_place = site(first) in lines["Forward primer"] and site(second) in lines["Reverse primer"]
    return in_place and {first, second} <= set(single)


def _gibson(lines: Lines, option: str, options: list[str]) -> bool:
    """The vector's double-stranded ends, without 5' overhangs, frame the gene."""
    name, shown = re.search(r"around the (\w+) site: ([ACGT]+)", lines["Vector"]).groups()
    cut = [place for place in cuts(shown, name) if place == len(shown) // 2][0]
    mark = ENZYMES[name].index("^")
    bottom = cut + len(site(name)) - 2 * mark
    assert bottom >= cut
    made = pcr(lines["Template"], *option.split(" + "))
    return made == shown[cut - 15 : cut] + longest(lines["Template"])[1] + shown[bottom : bottom + 15]


_SOLVERS: dict[str, Callable[[Lines, str, list[str]], bool]] = {
    "gc_percent": _gc,
    "fragment_count": lambda lines, option, options: int(option) == len(_sizes(lines)),
    "fragment_sizes": lambda lines, option, options: option == ", ".join(map(str, _sizes(lines))),
    "orf_residue": _residue,
    "orf_translation": lambda lines, option, options: option == longest(lines["Sequence"])[0],
    "orf_count": _count,
    "translation_efficiency": _start,
    "primers_length": _length,
    "length_primers": _pair_of_length,
    "region_primers": _pair_of_region,
    "gene_enzyme_primers": lambda lines, option, options: _between(longest(lines["Template"])[1], lines, option),
    "sequence_enzyme_primers": lambda lines, option, options: _between(_stretch(lines), lines, option),
    "primers_enzymes": _enzymes,
    "gibson_sticky_primers": _gibson,
    "gibson_blunt_primers": _gibson,
}
