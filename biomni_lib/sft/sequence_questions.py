"""How the scripted teacher's code reads a question about sequences (`lab_bench_seqqa`) and scores one of its options.

Every kind is computed from what the prompt shows: each option is tried as at the bench, by the tools that a task's
prompt lists. Numbers that the task's line states are written into the code, as that line is not copied.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_OPTIONS = 'd = dict(re.findall(r"(?m)^([\\w ]+): (.+)$", q))\no = {k: d[k] for k in "abcdef"}\n'
_SEQUENCE = 't = d["Sequence"]\n'
_DIGEST = 'z = digest(d["Sequence"], d["Enzymes"].split(" and "), circular=c)\n'
_TEMPLATE = 't = d["Template"]\n'
_ORF = """def orf(s):
    a, b, frame, _ = find_orfs(s, 1)[0]
    return s[a - 1:b] if frame > 0 else reverse_complement(s[a - 1:b])
"""
_SITES = """e = re.findall(r"by (\\w+)", d["Vector"])
u, v = [re.sub(r"[\\^_]", "", enzyme_info(x)["site"]) for x in e]
def insert(m):
    return m[m.find(u) + len(u):m.rfind(v)] if all(len(restriction_sites(m, x)) == 1 for x in e) else ""
"""
_INSERTED = 'any(insert(m) == g for m in amplify(t, *i.split(" + ")))'
_VECTOR = 'w = d["Vector"].split("by ")[1].split(", ")\np = d["Forward primer"], d["Reverse primer"]\n'
_ARMS = """e, v = re.search(r"around the (\\w+) site: (\\w+)", d["Vector"]).groups()
a, h = restriction_sites(v, e)[0] - 1, enzyme_info(e)
b = a + (h["overhang_length"] if h["overhang"] == "5'" else 0)
g = v[a - n[-1]:a] + orf(t) + v[b:b + n[-1]]
"""
KINDS: Mapping[str, tuple[str, str]] = {
    "what is the GC content": (_SEQUENCE, "-abs(gc_content(t) - int(i))"),
    "how many fragments": (_DIGEST, "len(z) == int(i)"),
    "how long are the fragments": (_DIGEST, '", ".join(map(str, z)) == i'),
    "which amino acid is number": (
        f"from Bio.SeqUtils import seq3\n{_SEQUENCE}{_ORF}",
        "seq3(translate(orf(t))[n[0] - 1]) == i",
    ),
    "what is the product of": (_SEQUENCE + _ORF, 'translate(orf(t)) == i + "*"'),
    "how many ORFs": (_SEQUENCE, "len(find_orfs(t, n[0] + 1)) == int(i)"),
    "which start codon": ("", '(i[6] in "AG") + (i[12] == "G")'),
    "how long is the PCR product": (
        _TEMPLATE,
        'int(i) in map(len, amplify(t, d["Forward primer"], d["Reverse primer"]))',
    ),
    "makes a PCR product of": (_TEMPLATE, 'n[0] in map(len, amplify(t, *i.split(" + ")))'),
    "amplifies exactly bases": (_TEMPLATE, 't[n[0] - 1:n[1]] in amplify(t, *i.split(" + "))'),
    "clones exactly the longest ORF": (f"{_TEMPLATE}{_ORF}{_SITES}g = orf(t)\n", _INSERTED),
    "clones exactly bases": (f"{_TEMPLATE}{_SITES}g = t[n[0] - 1:n[1]]\n", _INSERTED),
    "with which enzymes": (
        _VECTOR,
        'all(x in w and restriction_sites(y, x) for y, x in zip(p, i.split(" + ")))',
    ),
    "for Gibson assembly": (_TEMPLATE + _ORF + _ARMS, 'g in amplify(t, *i.split(" + "))'),
}
"""What the task's line says, to code that prepares and code that scores the text `i` of an option."""


def stated(task_line: str) -> str:
    """Code that holds a task line's numbers `n`, and whether its DNA is circular `c`."""
    numbers = [int(number) for number in re.findall(r"\b\d+\b", task_line)]
    return f"n, c = {numbers}, {'circular DNA' in task_line}\n{_OPTIONS}"
