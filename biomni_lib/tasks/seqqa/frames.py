"""Four kinds of question about translation: open reading frames and start codons.

An open reading frame runs from an ATG to the first stop codon in its frame, on either strand; of several starts with
one stop the first counts. The standard code applies. Start codons are ranked by the two positions of Kozak's consensus
that matter most (Kozak 1986, Cell 44:283): a purine three bases before the ATG and a G right after it.
"""

from dataclasses import dataclass

import numpy as np
from Bio.Seq import Seq
from Bio.SeqUtils import seq3

from biomni_lib.tasks.choices import Question, number_options
from biomni_lib.tasks.seqqa.pool import SequencePool, Window, reverse_complement

WINDOW = 240
SHORTEST, LONGEST = 12, 45
"""Amino acids of the frames asked about: long enough to be told apart, short enough to be written out six times."""
COUNTED = 300
CONTEXT_BEFORE, CONTEXT_AFTER = 9, 9
"""Bases shown on either side of a start codon."""

RULE = "An open reading frame (ORF) runs from an ATG to the first stop codon in its frame, on either strand"


@dataclass(frozen=True)
class Frame:
    """A reading frame: its product without the stop, and where its ATG starts and its stop ends on `strand`."""

    protein: str
    strand: int
    start: int
    end: int


def reading_frames(text: str) -> list[Frame]:
    """All open reading frames of a linear sequence, the longest product first, one for each stop codon."""
    found = []
    for strand, read in ((1, text), (-1, reverse_complement(text))):
        for offset in range(3):
            usable = offset + (len(read) - offset) // 3 * 3
            at = offset
            for piece in str(Seq(read[offset:usable]).translate()).split("*")[:-1]:
                if "M" in piece:
                    start = at + 3 * piece.index("M")
                    found.append(Frame(piece[piece.index("M") :], strand, start, at + 3 * len(piece) + 3))
                at += 3 * len(piece) + 3
    return sorted(found, key=lambda frame: (-len(frame.protein), frame.strand, frame.start))


def longest_frame(text: str, shortest: int = SHORTEST, longest: int = LONGEST) -> Frame | None:
    """The longest frame when no other is as long and its product has `shortest` to `longest` amino acids, else None."""
    frames = reading_frames(text)
    if not frames or not shortest <= len(frames[0].protein) <= longest:
        return None
    tied = len(frames) > 1 and len(frames[1].protein) == len(frames[0].protein)
    return None if tied else frames[0]


def coding_strand(text: str, frame: Frame) -> str:
    """The whole sequence as read on the frame's strand."""
    return text if frame.strand == 1 else reverse_complement(text)


def orf_residue(pool: SequencePool, rng: np.random.Generator) -> Question | None:
    """Which amino acid stands at a position of the longest frame's product. Wrong: its neighbours."""
    window = pool.window(rng, WINDOW)
    frame = longest_frame(window.text)
    if frame is None:
        return None
    place = int(rng.integers(2, len(frame.protein) + 1))
    gold = frame.protein[place - 1]
    near = [residue for residue in frame.protein[max(place - 8, 0) : place + 7] if residue != gold]
    wrong = [str(residue) for residue in rng.permutation([*dict.fromkeys(near)])]
    text = f"which amino acid is number {place} (M is number 1) of the product of the sequence's longest ORF? {RULE}."
    return Question(
        text, {"Sequence": window.text}, seq3(gold), tuple(map(seq3, wrong)), _origin(window) | {"place": place}
    )


def orf_translation(pool: SequencePool, rng: np.random.Generator) -> Question | None:
    """The product of the longest frame. Options: three readings that part at a codon, one for each frame, each with and
    without a misread codon before; which of the three is the longest is drawn."""
    window = pool.window(rng, WINDOW)
    frame = longest_frame(window.text)
    if frame is None:
        return None
    rank = int(rng.integers(3))
    for codon in rng.permutation(np.arange(3, len(frame.protein) - 1)).tolist():
        readings = [frame.protein, *(slipped(window.text, frame, codon, step) for step in (1, -1))]
        lengths = [len(reading) for reading in readings]
        if len(set(lengths)) == 3 and sorted(lengths).index(lengths[0]) == rank:
            break
    else:
        return None
    place = int(rng.integers(1, codon))
    misread = _backwards(window.text, frame, place)
    if misread in ("*", frame.protein[place]):
        return None
    wrong = [*readings[1:], *(reading[:place] + misread + reading[place + 1 :] for reading in readings)]
    text = f"what is the product of the sequence's longest ORF? {RULE}."
    return Question(text, {"Sequence": window.text}, frame.protein, tuple(wrong), _origin(window))


def slipped(text: str, frame: Frame, codon: int, step: int) -> str:
    """The product when the reading moves `step` bases on before a codon (counted from 0), up to its next stop."""
    slip = coding_strand(text, frame)[frame.start + 3 * codon + step :]
    return frame.protein[:codon] + str(Seq(slip[: len(slip) // 3 * 3]).translate()).split("*")[0]


def _backwards(text: str, frame: Frame, place: int) -> str:
    """The amino acid of a codon (counted from 0) read from its third base to its first."""
    at = frame.start + 3 * place
    return str(Seq(coding_strand(text, frame)[at : at + 3][::-1]).translate())


def orf_count(pool: SequencePool, rng: np.random.Generator) -> Question | None:
    """How many frames have a product longer than a threshold."""
    window = pool.window(rng, COUNTED)
    lengths = [len(frame.protein) for frame in reading_frames(window.text)]
    threshold = int(rng.choice([5, 10, 15, 20]))
    gold = sum(length > threshold for length in lengths)
    if gold == 0:
        return None
    text = f"how many ORFs of the sequence encode more than {threshold} amino acids? {RULE}; one stop, one ORF."
    wrong = number_options(gold, range(max(gold - 3, 0), gold + 4), rng)
    return Question(text, {"Sequence": window.text}, str(gold), wrong, _origin(window) | {"threshold": threshold})


def start_contexts(text: str) -> dict[str, list[str]]:
    """Surroundings of every ATG of a sequence, by how well they fit Kozak's consensus: strong, adequate or weak."""
    ranked: dict[str, list[str]] = {"strong": [], "adequate": [], "weak": []}
    at = text.find("ATG", CONTEXT_BEFORE)
    while at >= 0 and at + 3 + CONTEXT_AFTER <= len(text):
        met = (text[at - 3] in "AG") + (text[at + 3] == "G")
        ranked[("weak", "adequate", "strong")[met]].append(text[at - CONTEXT_BEFORE : at + 3 + CONTEXT_AFTER])
        at = text.find("ATG", at + 1)
    return ranked


def translation_efficiency(pool: SequencePool, rng: np.random.Generator) -> Question | None:
    """Which start codon lies in the strongest context. Wrong: contexts that lack one or both bases that count."""
    ranked = start_contexts(pool.window(rng, 2000).text)
    if not ranked["strong"]:
        return None
    gold = str(rng.choice(ranked["strong"]))
    lacking = [*ranked["adequate"], *ranked["adequate"], *ranked["weak"]]
    text = (
        f"which start codon, the ATG at bases {CONTEXT_BEFORE + 1} to {CONTEXT_BEFORE + 3} of each option, is "
        "translated best in animal cells by Kozak's consensus (a purine at -3 and a G at +4)?"
    )
    return Question(text, {}, gold, tuple(str(option) for option in rng.permutation(lacking)) if lacking else ())


def _origin(window: Window) -> dict[str, object]:
    return {"record": window.record, "start": window.start, "strand": window.strand}
