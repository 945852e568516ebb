"""What runs inside vLLM's worker processes beside vLLM's own code: the swap of all weights, and an end with the owner.

vLLM reloads weights in place, but on CPU an output projection tied to the embeddings keeps a packed copy of the old
ones (vllm/model_executor/layers/vocab_parallel_embedding.py): the reload names it as loaded, and every log-prob is
wrong by more than 1 without an error. So the output projection is processed once more after each reload.

vLLM's processes outlive one that is killed, and keep its memory. So whoever starts them leaves its process id in OWNER;
a worker ends when that process has, and vLLM's engine process ends with its workers.
"""

from __future__ import annotations

import os
import threading
from typing import Any

import psutil

OWNER = "BIOMNI_ENGINE_OWNER"


class WeightSwap:
    """Mixed into vLLM's worker class (`worker_extension_cls`); its methods answer `collective_rpc`."""

    model_runner: Any
    reload_weights: Any

    def swap_weights(self, path: str) -> None:
        """Take the weights of a safetensors file under the checkpoint's names."""
        from safetensors.torch import load_file
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        self.reload_weights(weights_iterator=iter(load_file(path).items()))
        for module in self.model_runner.get_model().modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


def _end_with(owner: psutil.Process) -> None:
    owner.wait()
    os._exit(1)


if OWNER in os.environ and os.environ[OWNER] != str(os.getpid()):  # vLLM imports this module in its workers alone
    threading.Thread(target=_end_with, args=(psutil.Process(int(os.environ[OWNER])),), daemon=True).start()
