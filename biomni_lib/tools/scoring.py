"""How well findings fit a profile: the arithmetic under the tools, on row numbers.

Similarity is Resnik's best match: a finding is explained by a profile up to the most informative term that both
share, counting all ancestors. A patient's score is the share of its information that the profile explains.
"""

import numpy as np

from biomni_lib.lake import Lake
from biomni_lib.lake.columns import Profiles

UNKNOWN_FREQUENCY = 0.5
"""Taken for an annotated term whose frequency the source does not state."""
HIGHEST_FREQUENCY = 0.95
"""Small case series say 3/3; a finding is never taken as certain, so that one absence cannot rule a disease out."""


def explained_information(lake: Lake, terms: np.ndarray, closure: np.ndarray) -> np.ndarray:
    """Information of each finding that a profile explains.

    Args:
        terms: (n,) term rows of the findings.
        closure: (m,) term rows of the profile, ancestors included.
    Returns: (n,) nats, from 0 to the finding's own information content.
    """
    weight = np.zeros(len(lake.ic), np.float32)
    weight[closure] = lake.ic[closure]
    return np.array([weight[lake.ancestors[term]].max() for term in terms], np.float32)


def shown_terms(profiles: Profiles, row: int) -> np.ndarray:
    """Term rows of a profile without the findings known to be absent."""
    return profiles.terms[row][profiles.frequencies[row] != 0]


def known_frequencies(profiles: Profiles, row: int) -> np.ndarray:
    """Frequencies of a profile with the unstated ones filled in, 0 to 1."""
    return np.nan_to_num(profiles.frequencies[row], nan=UNKNOWN_FREQUENCY)


def overlap(lake: Lake, terms: np.ndarray, closure: np.ndarray) -> float:
    """Share of the findings' information that a profile explains, 0 to 1; 0 when the findings carry none."""
    total = float(lake.ic[terms].sum())
    return float(explained_information(lake, terms, closure).sum()) / total if total > 0 else 0.0


def overlap_with_all(lake: Lake, terms: np.ndarray, profiles: Profiles) -> np.ndarray:
    """`overlap` of the findings with every owner of `profiles` (a closure) at once.

    Returns: (owners,) from 0 to 1.
    """
    scores = np.zeros(len(profiles.terms), np.float32)
    for term in terms:
        ancestors = lake.ancestors[term]
        best = np.zeros_like(scores)
        for ancestor in ancestors[np.argsort(lake.ic[ancestors], kind="stable")]:
            best[profiles.owners[ancestor]] = lake.ic[ancestor]
        scores += best
    total = float(lake.ic[terms].sum())
    return scores / total if total > 0 else scores


def expected_frequencies(profiles: Profiles, row: int, terms: np.ndarray) -> np.ndarray:
    """How often a profile leads one to expect each of some findings.

    Args:
        profiles: a closure; row: its owner; terms: (n,) term rows.
    Returns: (n,) from 0 (not part of the profile) to `HIGHEST_FREQUENCY`.
    """
    own, frequencies = profiles.terms[row], known_frequencies(profiles, row)
    if len(own) == 0:
        return np.zeros(len(terms), np.float32)
    at = np.minimum(np.searchsorted(own, terms), len(own) - 1)
    return np.minimum(np.where(own[at] == terms, frequencies[at], 0.0), HIGHEST_FREQUENCY)
