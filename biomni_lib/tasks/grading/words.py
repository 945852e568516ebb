"""Answers of one word: a letter, a gene symbol, a variant. Blanks around it are trimmed, nothing else is forgiven.

Departs from the benchmark, which compares upper-case texts: only ASCII letters change case here, so that a name of
look-alikes (a long s, a dotless i, a ligature) is another name; and an empty gold is matched by nothing.
"""

import re
import string

LONGEST_LIST = 20_000
"""Characters of an answer in which words are counted."""
_BETWEEN = re.compile(r"[\s,;/|]+")


def grade_letter(answer: str, gold: str, strict: bool = False) -> float:
    """1.0 when the answer is the gold's letter, in either case."""
    right = _folded(gold)
    return float(len(right) == 1 and right.decode() in string.ascii_lowercase and _folded(answer) == right)


def grade_symbol(answer: str, gold: str, strict: bool = False) -> float:
    """1.0 when the answer is the gold's gene symbol, in any case."""
    right = _folded(gold)
    return float(bool(right) and _folded(answer) == right)


def grade_variant(answer: str, gold: str, strict: bool = False) -> float:
    """1.0 when the answer is the gold's variant, letter by letter."""
    right = gold.strip()
    return float(bool(right) and answer.strip() == right)


def words_given(answer: str) -> set[str]:
    """Different words of an answer, case ignored: what stands between blanks, commas, semicolons, slashes and bars."""
    return set(filter(None, _BETWEEN.split(answer[:LONGEST_LIST].lower())))


def _folded(text: str) -> bytes:
    """Trimmed, ASCII letters in lower case (of bytes, `lower` changes no others)."""
    return text.strip().encode(errors="surrogatepass").lower()
