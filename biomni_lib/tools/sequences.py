"""Tools over sequences: what is computed at the bench before an experiment. Biopython does the work.

DNA is text in the letters of IUPAC, upper or lower case, blanks ignored; positions are 1-based. None needs the lake.
Biopython is loaded with the first call.
"""

import re
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from biomni_lib.lake.ids import shown
from biomni_lib.tools.arguments import whole_number

if TYPE_CHECKING:
    from Bio.Seq import Seq

LETTERS = frozenset("ACGTRYSWKMBDHVN")
BASES_MAX = 1_000_000
FRAMES = (1, 2, 3, -1, -2, -3)


def reverse_complement(dna: str) -> str:
    """The other strand, read from its 5' end.

    Args:
        dna: 5' to 3'.
    Returns: the sequence, 5' to 3'.
    Example: reverse_complement("ATGC") -> "GCAT"
    """
    return str(_seq(dna).reverse_complement())


def gc_content(dna: str) -> float:
    """Share of G and C among the bases.

    Args:
        dna: 5' to 3'.
    Returns: percent, 0 to 100; a letter that stands for several bases counts by its share of G and C.
    Example: gc_content("ATGC") -> 50.0
    """
    from Bio.SeqUtils import gc_fraction

    return round(100 * gc_fraction(_seq(dna), "weighted"), 2)


def translate(dna: str, frame: int = 1) -> str:
    """The protein that a reading frame encodes (standard code), stops as *.

    Args:
        dna: 5' to 3'. frame: 1, 2 or 3 on this strand; -1, -2 or -3 on the other, counted from its 5' end.
    Returns: one letter a codon, X where a codon is ambiguous; an incomplete last codon is left out.
    Example: translate("ATGGCCTAA") -> "MA*"
    """
    return _protein(_seq(dna), _frame(frame))


def find_orfs(dna: str, min_length: int = 30) -> list[tuple[int, int, int, int]]:
    """Open reading frames from a start codon ATG to the first stop, on both strands.

    Args:
        dna: 5' to 3', linear. min_length: fewest amino acids, the stop not counted.
    Returns: [(first base, last base with the stop codon, frame 1 to 3 or -1 to -3, amino acids), ...], longest first;
        positions on the strand given.
    Example: find_orfs("CCATGGCCTAACC", min_length=2) -> [(3, 11, 3, 2)]
    """
    sequence, least = _seq(dna), whole_number("min_length", min_length)
    found = []
    for frame in FRAMES:
        for match in re.finditer(r"M[^*]*\*", _protein(sequence, frame)):
            first = abs(frame) - 1 + 3 * match.start()
            last = abs(frame) - 1 + 3 * match.end()
            ends = (first + 1, last) if frame > 0 else (len(sequence) - last + 1, len(sequence) - first)
            if len(match[0]) - 1 >= least:
                found.append((*ends, frame, len(match[0]) - 1))
    return sorted(found, key=lambda orf: (-orf[3], orf))


def find_motif(dna: str, motif: str) -> list[tuple[int, str]]:
    """Where a motif stands, on both strands.

    Args:
        dna: 5' to 3', linear. motif: DNA; a letter such as N or R stands for several bases.
    Returns: [(first base on the strand given, "+" or "-"), ...], by position; a palindrome is found once, on "+".
    Example: find_motif("AAGAATTCTT", "GAATTC") -> [(3, "+")]
    """
    sequence, sought = str(_seq(dna)), _seq(motif)
    other = sought.reverse_complement()
    places = [(at, "+") for at in _places(sequence, str(sought))]
    return sorted(places + [(at, "-") for at in _places(sequence, str(other)) if other != sought])


def melting_temperature(primer: str, sodium_mm: float = 50.0, primer_nm: float = 50.0) -> float:
    """Temperature at which half of a primer is bound to its complement (nearest neighbours).

    Args:
        primer: unambiguous DNA, 8 to 100 bases. sodium_mm: sodium in mmol/l. primer_nm: primer in nmol/l.
    Returns: degrees Celsius. Allawi & SantaLucia 1997, salt as SantaLucia 1998, as Biopython's Tm_NN computes it.
    Example: 45 < melting_temperature("GTAAAACGACGGCCAGT") < 60 -> True
    """
    from Bio.SeqUtils import MeltingTemp

    sequence = str(_seq(primer))
    if not 8 <= len(sequence) <= 100 or set(sequence) - set("ACGT"):
        raise ValueError(f"melting_temperature needs 8 to 100 bases A, C, G, T, not {shown(primer)}")
    if not (0 < sodium_mm < 5000 and 0 < primer_nm < 1e9):
        raise ValueError("sodium_mm and primer_nm must be above 0")
    return round(float(MeltingTemp.Tm_NN(sequence, Na=sodium_mm, dnac1=primer_nm, dnac2=0)), 1)


def enzyme_info(enzyme: str) -> dict[str, object]:
    """Recognition site of a restriction enzyme and how it cuts.

    Args:
        enzyme: name as in REBASE, such as EcoRI; upper and lower case count.
    Returns: {"enzyme", "site" (^ cuts this strand, _ the other), "overhang": "5'", "3'", "blunt" or "unknown",
        "overhang_length": bases or None}.
    Example: enzyme_info("EcoRI")["site"] -> "G^AATT_C"
    """
    one = _enzyme(enzyme)
    kind = "5'" if one.is_5overhang() else "3'" if one.is_3overhang() else "blunt" if one.is_blunt() else "unknown"
    length = None if kind == "unknown" else abs(int(one.ovhg))
    return {"enzyme": str(one), "site": one.elucidate(), "overhang": kind, "overhang_length": length}


def restriction_sites(dna: str, enzyme: str, circular: bool = False) -> list[int]:
    """Where an enzyme cuts.

    Args:
        dna: 5' to 3'. enzyme: name as in REBASE, such as EcoRI. circular: True for a plasmid.
    Returns: [first base behind each cut of this strand, ...], ascending; empty when it does not cut.
    Example: restriction_sites("AAGAATTCTT", "EcoRI") -> [4]
    """
    return sorted(int(at) for at in _enzyme(enzyme).search(_seq(dna), linear=not circular))


def digest(dna: str, enzymes: list[str] | str, circular: bool = False) -> list[int]:
    """Lengths of the fragments that one or more enzymes cut a sequence into, cutting at every site.

    Args:
        dna: 5' to 3'. enzymes: one name as in REBASE or a list. circular: True for a plasmid.
    Returns: [length of this strand in base pairs, ...], longest first; the whole length when nothing cuts.
    Example: digest("AAGAATTCTT", "EcoRI") -> [7, 3]
    """
    names = [enzymes] if isinstance(enzymes, str) else enzymes
    if not isinstance(names, list | tuple) or not names:
        raise ValueError(f"enzymes must be one name or a list of names, not {shown(enzymes)}")
    length = len(_seq(dna))
    cuts = sorted({at for name in names for at in restriction_sites(dna, name, circular)})
    ends = [*cuts, cuts[0] + length] if circular and cuts else [1, *cuts, length + 1]
    return sorted((after - at for at, after in pairwise(ends)), reverse=True)


def pcr_product(template: str, forward: str, reverse: str, circular: bool = False) -> list[tuple[int, int, int]]:
    """What two primers that match fully amplify.

    Args:
        template: 5' to 3'. forward, reverse: primers, each 5' to 3', at least 8 bases. circular: True for a plasmid.
    Returns: [(first base, last base, length in base pairs), ...], shortest first; empty when they amplify nothing. Over
        the origin of a plasmid the last base lies before the first.
    Example: pcr_product("TT" + "ACGTTGCA" + "T" * 10 + "GGCCATTA" + "TT", "ACGTTGCA", "TAATGGCC") -> [(3, 28, 26)]
    """
    whole, start, end = str(_seq(template)), str(_seq(forward)), str(_seq(reverse).reverse_complement())
    if min(len(start), len(end)) < 8:
        raise ValueError("a primer needs at least 8 bases")
    size, sought = len(whole), whole + (whole if circular else "")
    lasts = [at + len(end) - 1 for at in _places(sought, end)]
    pairs = {(at, last) for at in _places(sought, start) if at <= size for last in lasts}
    kept = [(at, last) for at, last in pairs if max(len(start), len(end)) <= last - at + 1 <= size]
    products = {(at, (last - 1) % size + 1, last - at + 1) for at, last in kept}
    return sorted(products, key=lambda product: (product[2], product[0]))[:20]


def amplify(template: str, forward: str, reverse: str, min_match: int = 15, circular: bool = False) -> list[str]:
    """Sequences that two primers amplify when their 5' ends may hang over, as tails with sites or homology arms do.

    Args:
        template: 5' to 3'. forward, reverse: primers, each 5' to 3'; either may bind either strand. min_match: bases at
        the 3' end of a primer that must match fully, at least 8. circular: True for a plasmid.
    Returns: [product with both tails, 5' to 3' from the forward primer on, ...], shortest first; empty without any.
    Example: amplify("TTACGTTGCATTGGCCATTATT", "CCACGTTGCA", "TAATGGCC", min_match=8) -> ["CCACGTTGCATTGGCCATTA"]
    """
    matched, top, start, end = whole_number("min_match", min_match), *map(str, map(_seq, (template, forward, reverse)))
    tails = start[:-matched], reverse_complement(end[:-matched]) if end[:-matched] else ""
    found = set()
    for strand in (top, reverse_complement(top)):
        for first, _, length in pcr_product(strand, start[-matched:], end[-matched:], circular):
            found.add(tails[0] + (strand + strand)[first - 1 : first - 1 + length] + tails[1])
    return sorted(found, key=lambda product: (len(product), product))


TOOLS = (
    reverse_complement,
    gc_content,
    translate,
    find_orfs,
    find_motif,
    melting_temperature,
    enzyme_info,
    restriction_sites,
    digest,
    pcr_product,
    amplify,
)


def _seq(dna: str) -> "Seq":
    from Bio.Seq import Seq

    if not isinstance(dna, str):
        raise ValueError(f"a sequence must be text, not {type(dna).__name__}")
    letters = "".join(dna.split()).upper()
    if not 0 < len(letters) <= BASES_MAX:
        raise ValueError(f"a sequence must have 1 to {BASES_MAX} bases, not {len(letters)}")
    if strange := set(letters) - LETTERS:
        at = min(letters.index(letter) for letter in strange)
        raise ValueError(
            f"base {at + 1} is {letters[at]!r}; expected DNA in the letters of IUPAC, such as A, C, G, T, N"
        )
    return Seq(letters)


def _frame(frame: int) -> int:
    if isinstance(frame, bool) or frame not in FRAMES:
        raise ValueError(f"frame must be 1, 2, 3, -1, -2 or -3, not {shown(frame)}")
    return frame


def _protein(sequence: "Seq", frame: int) -> str:
    strand = sequence if frame > 0 else sequence.reverse_complement()
    codons = strand[abs(frame) - 1 :]
    return str(codons[: len(codons) // 3 * 3].translate())


def _enzyme(name: str) -> Any:
    """An enzyme's class, which Biopython makes from REBASE when it is imported."""
    from Bio import Restriction

    enzymes: Any = Restriction.AllEnzymes  # type: ignore[attr-defined]
    if not isinstance(name, str) or name.strip() not in enzymes.elements():
        raise ValueError(f"unknown enzyme {shown(name)}; expected a name as in REBASE, such as EcoRI")
    return enzymes.get(name.strip())


def _places(sequence: str, motif: str) -> list[int]:
    """1-based starts of a motif, overlapping ones included; only letters of the motif stand for several bases."""
    from Bio.Data.IUPACData import ambiguous_dna_values

    pattern = "".join(f"[{ambiguous_dna_values[letter]}]" for letter in motif)
    return [match.start() + 1 for match in re.finditer(f"(?={pattern})", sequence)]
