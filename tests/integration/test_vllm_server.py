"""`ApiEngine` against vLLM's own server with the tiny model: chat completions, and Anthropic's messages."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch
from transformers import PreTrainedModel

from biomni_lib.config import ApiConfig
from biomni_lib.engines.api_engine import ApiEngine
from biomni_lib.engines.base import Sampling
from biomni_lib.engines.transformers_engine import TransformersEngine
from biomni_lib.sft.model import build_model
from tests.acting_toy import MODEL, renderer, tokenizer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}<|im_start|>assistant\n"
)
WIDE = MODEL.model_copy(update={"head_dim": 32})
"""The toy's model with heads of a width that vLLM's attention on CPU knows."""
PROMPT = renderer().prompt("Be brief.", "What is 2 + 2?")
START_S = 400


def made() -> PreTrainedModel:
    """A random model whose distributions are peaked."""
    model = build_model(WIDE, tokenizer(), 0)
    with torch.no_grad():
        model.model.embed_tokens.weight.mul_(4.0)
    return model.eval()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the tiny model, in a process of its own."""
    folder = tmp_path_factory.mktemp("served")
    made().save_pretrained(folder)
    renderer().tokenizer.save_pretrained(folder)
    (folder / "chat.jinja").write_text(CHATML)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder)]
    command += ["--served-model-name", "tiny"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--chat-template", str(folder / "chat.jinja")]
    command += ["--dtype", "float32", "--enforce-eager", "--max-model-len", str(MODEL.context), "--max-num-seqs", "4"]
    settings = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "VLLM_NO_USAGE_STATS": "1"}
    log = folder / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | settings)
    try:
        _wait(f"http://127.0.0.1:{port}/health", process, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


def _wait(health: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_S
    while time.monotonic() < until and process.poll() is None:
        try:
            if httpx.get(health, trust_env=False).is_success:
                return
        except httpx.TransportError:
            time.sleep(1)
    pytest.fail(f"vLLM's server did not start:\n{log.read_text(errors='replace')[-3000:]}")


@pytest.mark.parametrize(("provider", "path"), [("openai", "/v1"), ("anthropic", "")])
async def test_the_served_model_writes_what_it_writes_here(url: str, path: str, provider: str, tmp_path: Path) -> None:
    """Greedily, token for token, on a prompt that the server renders from messages; and it counts the same tokens."""
    own = TransformersEngine(made(), renderer(), slots=2, context=WIDE.context)
    asked = ApiEngine.open(provider, "tiny", ApiConfig(url=url + path), renderer(), tmp_path / "paid.jsonl")
    try:
        greedy = Sampling(temperature=0.0, max_tokens=16)
        here = await own.generate(PROMPT, greedy)
        if provider == "openai":  # Anthropic's client sends no temperature
            there = await asked.generate(PROMPT, greedy)
            assert there.text == renderer().tokenizer.decode(here.ids, skip_special_tokens=True)
        else:
            there = await asked.generate(PROMPT, Sampling(max_tokens=16))
            assert there.text and there.finish_reason in ("length", "eos")
        stats = asked.stats()
        assert stats.prefilled_tokens + stats.cached_tokens == len(PROMPT)
        assert 0 < stats.generated_tokens <= 16
    finally:
        await asked.close()
        await own.close()
