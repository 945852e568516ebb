"""Temperature and top-p against a plain NumPy reference."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.engines.base import Sampling
from biomni_lib.engines.sampler import sample
from biomni_lib.errors import EngineError

VOCAB = 50


def reference(logits: np.ndarray, sampling: Sampling) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities to draw from, and log-probabilities to report, of one row, token by token."""
    scaled = logits.astype(np.float64) / (sampling.temperature or 1.0)
    logprobs = scaled - scaled.max()
    logprobs -= np.log(np.exp(logprobs).sum())
    if sampling.temperature == 0:
        return np.eye(len(logits))[logits.argmax()], logprobs
    kept, reached = np.zeros(len(logits)), 0.0
    for token in np.argsort(-logits, kind="stable"):
        if reached >= sampling.top_p:
            break
        kept[token] = np.exp(logprobs[token])
        reached += kept[token]
    return kept / kept.sum(), logprobs


@st.composite
def rows(draw: st.DrawFn) -> tuple[np.ndarray, list[Sampling], np.ndarray]:
    count = draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    logits = (rng.normal(size=(count, VOCAB)) * draw(st.sampled_from([0.5, 3.0]))).astype(np.float32)
    temperatures, masses = st.sampled_from([0.0, 0.3, 0.6, 1.0, 2.0]), st.sampled_from([0.05, 0.5, 0.9, 0.95, 1.0])
    samplings = [Sampling(draw(temperatures), draw(masses)) for _ in range(count)]
    return logits, samplings, rng.random(count)


@given(rows())
def test_every_draw_is_the_references(case: tuple[np.ndarray, list[Sampling], np.ndarray]) -> None:
    logits, samplings, uniforms = case
    ids, logprobs = sample(torch.tensor(logits), samplings, torch.tensor(uniforms))
    for row, sampling in enumerate(samplings):
        weights, expected = reference(logits[row], sampling)
        below = np.concatenate([[0.0], weights.cumsum()])
        token = int(ids[row])
        assert weights[token] > 0
        assert below[token] - 1e-5 <= uniforms[row] <= below[token + 1] + 1e-5 or sampling.temperature == 0
        assert float(logprobs[row]) == pytest.approx(expected[token], abs=1e-5)


@given(rows())
def test_a_row_is_drawn_the_same_alone(case: tuple[np.ndarray, list[Sampling], np.ndarray]) -> None:
    logits, samplings, uniforms = (torch.tensor(part) if isinstance(part, np.ndarray) else part for part in case)
    ids, logprobs = sample(logits, samplings, uniforms)
    for row in range(len(samplings)):
        part = slice(row, row + 1)
        alone = sample(logits[part], samplings[part], uniforms[part])
        assert (int(alone[0]), float(alone[1])) == (int(ids[row]), float(logprobs[row]))


@pytest.mark.parametrize("sampling", [Sampling(1.0), Sampling(0.6, 0.95), Sampling(2.0, 0.5)])
def test_frequencies_are_the_probabilities(sampling: Sampling) -> None:
    draws, logits = 40_000, np.linspace(-2, 3, 8).astype(np.float32)
    uniforms = torch.tensor(np.random.default_rng(0).random(draws))
    ids, _ = sample(torch.tensor(logits).expand(draws, -1), [sampling] * draws, uniforms)
    observed = np.bincount(ids.numpy(), minlength=8) / draws
    expected, _ = reference(logits, sampling)
    assert np.abs(observed - expected).max() < 4 * np.sqrt(0.25 / draws)
    assert (observed[expected == 0] == 0).all()


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-53])
def test_the_ends_of_the_interval_draw_tokens_that_can_be(uniform: float) -> None:
    logits = torch.tensor([[-200.0, 0.0, 1.0, -200.0]])
    ids, _ = sample(logits, [Sampling(1.0)], torch.tensor([uniform], dtype=torch.float64))
    assert int(ids[0]) == (1 if uniform == 0 else 2)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"temperature": -0.1}, "temperature = -0.1"),
        ({"temperature": float("nan")}, "temperature = nan"),
        ({"top_p": 0.0}, "top_p = 0.0"),
        ({"top_p": 1.01}, "top_p = 1.01"),
        ({"max_tokens": 0}, "max_tokens = 0"),
        ({"stop": ("x", "")}, "stop = .* without an empty string"),
    ],
)
def test_settings_out_of_range_are_refused(values: dict, message: str) -> None:
    with pytest.raises(EngineError, match=rf"sampling\.{message}"):
        Sampling(**values)
