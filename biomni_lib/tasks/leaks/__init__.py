"""Leaks: what training data share with held-out data or a benchmark, and the guard that keeps unaudited scores out.

`identifiers` declares, task by task, what must be apart; `texts` finds texts that say the same; `compare` counts;
`record` writes the result down and refuses a benchmark whose audit is missing, failed or of other data.
"""

from biomni_lib.tasks.leaks.at_hand import benchmarks_at_hand
from biomni_lib.tasks.leaks.compare import BENCHMARKS, Finding, compare, overlapping
from biomni_lib.tasks.leaks.record import AuditRecord, audit_file, require_audited

__all__ = [
    "BENCHMARKS",
    "AuditRecord",
    "Finding",
    "audit_file",
    "benchmarks_at_hand",
    "compare",
    "overlapping",
    "require_audited",
]
