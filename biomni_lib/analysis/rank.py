"""Three correlations of a length with an outcome of few levels, for all bootstrap resamples at once.

A resample is a vector of weights (how often each instance was drawn). The weighted table of length against outcome
gives Spearman's rho, Kendall's tau-b and Pearson's r exactly, as repeating the rows would, without repeating them.

Source: Kendall and Gibbons 1990, chapters 1 and 3 (ties).
"""

import numpy as np
import pandas as pd

MEASURES = ("spearman", "kendall", "point_biserial")
_CHUNK_CELLS = 4_000_000


def bootstrap_measures(
    rows: pd.DataFrame, length: str, outcome: str, *, draws: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """The measures on the rows and on resamples of their instances.

    Args:
        rows: with `task`, `instance_id`, `length`, `outcome`, without nulls.
    Returns: (3,) in the order of `MEASURES`, and (draws, 3); NaN where length or outcome is the same throughout.
    """
    instances = rows.groupby(["task", "instance_id"]).ngroup().to_numpy()
    lengths, x = np.unique(rows[length].to_numpy(dtype=float), return_inverse=True)
    levels, y = np.unique(rows[outcome].to_numpy(dtype=float), return_inverse=True)
    count = int(instances.max(initial=-1)) + 1
    per_instance = np.zeros((count, len(lengths) * len(levels)))
    np.add.at(per_instance, (instances, x * len(levels) + y), 1.0)
    shape = (-1, len(lengths), len(levels))
    rng = np.random.default_rng(np.random.SeedSequence([seed, count]))
    step = max(1, _CHUNK_CELLS // max(1, per_instance.shape[1]))
    spread = [
        measures(
            (_weights(rng, min(step, draws - start), count) @ per_instance).reshape(shape),
            lengths,
            levels,
        )
        for start in range(0, draws, step)
    ]
    seen = measures(per_instance.sum(axis=0).reshape(shape), lengths, levels)[0]
    return seen, np.concatenate(spread)


def measures(tables: np.ndarray, lengths: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Spearman, Kendall's tau-b and Pearson from contingency tables.

    Args:
        tables: (tables, lengths, levels), how often each pair of values occurs.
        lengths, levels: the values, ascending.
    Returns: (tables, 3); NaN where a table has one length or one level.
    """
    by_length, by_level = tables.sum(axis=2), tables.sum(axis=1)
    spearman = _pearson(tables, _midranks(by_length), _midranks(by_level))
    pearson = _pearson(tables, np.broadcast_to(lengths, by_length.shape), np.broadcast_to(levels, by_level.shape))
    return np.stack([spearman, _kendall(tables, by_length, by_level), pearson], axis=1)


def _weights(rng: np.random.Generator, draws: int, count: int) -> np.ndarray:
    return rng.multinomial(count, np.full(count, 1 / count), size=draws).astype(float)


def _midranks(counts: np.ndarray) -> np.ndarray:
    return np.cumsum(counts, axis=1) - counts / 2


def _pearson(tables: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    by_length, by_level = tables.sum(axis=2), tables.sum(axis=1)
    total = tables.sum(axis=(1, 2))
    x = x - ((by_length * x).sum(axis=1) / total)[:, None]
    y = y - ((by_level * y).sum(axis=1) / total)[:, None]
    covariance = np.einsum("bxy,bx,by->b", tables, x, y, optimize=True)
    return _ratio(covariance, (by_length * x**2).sum(axis=1) * (by_level * y**2).sum(axis=1))


def _kendall(tables: np.ndarray, by_length: np.ndarray, by_level: np.ndarray) -> np.ndarray:
    total = tables.sum(axis=(1, 2))
    below = np.cumsum(tables, axis=1) - tables
    above = tables.sum(axis=1, keepdims=True) - np.cumsum(tables, axis=1)
    lead = below - above
    score = sum(
        (tables[:, :, high] * lead[:, :, low]).sum(axis=1) for high in range(tables.shape[2]) for low in range(high)
    ) + np.zeros(len(tables))
    untied = [(total**2 - (counts**2).sum(axis=1)) / 2 for counts in (by_length, by_level)]
    return _ratio(score, untied[0] * untied[1])


def _ratio(score: np.ndarray, product: np.ndarray) -> np.ndarray:
    known = product > 1e-12
    return np.where(known, score / np.sqrt(np.where(known, product, 1.0)), np.nan)
