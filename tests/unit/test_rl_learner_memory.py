"""The learner's memory does not grow with tokens times vocabulary."""

import pytest
import torch

from biomni_lib.config import RunConfig
from biomni_lib.rl.logprobs import token_logprobs
from biomni_lib.stages.bench import learner as bench
from biomni_lib.stages.bench.measured import Side
from tests.held_memory import Held

GB_MAX = 6.0
"""What 65,536 tokens with a vocabulary of 151,936 may take; the logits alone would be 40."""
VOCABULARY, WIDTH, CHUNK = 2000, 4, 50


def most_bytes(tokens: int, logits_max: int) -> int:
    """Held at most during a pass forward and backward over so many tokens, inputs aside."""
    hidden, head = torch.randn(tokens, WIDTH, requires_grad=True), torch.randn(VOCABULARY, WIDTH, requires_grad=True)
    targets = torch.randint(VOCABULARY, (tokens,))
    with Held() as held:
        logprobs, _ = token_logprobs(hidden, head, targets, 1.0, logits_max=logits_max)
        logprobs.sum().backward()
    return held.most


def test_chunks_bound_the_memory_whatever_the_tokens() -> None:
    """Sixteen chunks take what one takes, but for what has the size of the hidden states; whole logits grow."""
    chunk, logits = CHUNK * VOCABULARY, CHUNK * VOCABULARY * 4
    two, sixteen = (most_bytes(n * CHUNK, chunk) for n in (2, 16))
    assert most_bytes(16 * CHUNK, 16 * chunk) > 3 * 16 * logits
    assert two > 3 * logits
    assert sixteen - two < 0.2 * logits


def test_the_benchmark_measures_a_fresh_process(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its peak is at least its libraries, and what this process holds does not count."""
    monkeypatch.setattr(bench, "TOKENS", 64)
    monkeypatch.setattr(bench, "VOCABULARY", 512)
    ballast = torch.ones(1 << 28)  # 1 GB here, nothing there
    reading = bench.peak_memory(config)
    assert 0.2 < reading.side.value < 1.0 and ballast.sum() > 0
    assert (reading.conditions["tokens"], reading.conditions["vocabulary"]) == (64, 512)
    (logits,) = reading.beside
    assert isinstance(logits, Side) and logits.value == 64 * 512 * 4 / 1e9
    assert str(reading).startswith(f"{reading.side.value:.2g} GB (peak resident memory of the process")


@pytest.mark.slow
def test_65536_tokens_with_a_vocabulary_of_151936_train_within_6_gb() -> None:
    assert bench.peak_gb(bench.TOKENS, bench.VOCABULARY) < GB_MAX
