"""A trained model as a Hugging Face folder that anyone can serve: weights, tokenizer, template, settings and a card.

The configuration is that of the folder trained from, YaRN's factor included, so that serving stretches positions as
training did. The chat template is the framing of `agent.chat`, which the model was trained with: a pretrained model's
own may differ (Qwen3's leaves out earlier thinking).
"""

from __future__ import annotations

import shutil
from pathlib import Path

from biomni_lib.agent.chat import END, START, ChatRenderer
from biomni_lib.errors import DataError
from biomni_lib.provenance import atomic_path

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{{{{ '{START}' + message['role'] + '\\n' + message['content'] + '{END}\\n' }}}}"
    "{% endfor %}"
    f"{{% if add_generation_prompt %}}{{{{ '{START}assistant\\n' }}}}{{% endif %}}"
)
WEIGHTS = ("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json")


def export_model(weights: Path, model_dir: Path, target: Path, *, card: str, temperature: float) -> None:
    """Write the folder, whole or not at all; one that is there makes room.

    Args:
        weights: a safetensors file under the model's own names, as checkpoints and trained models have it.
        model_dir: the folder that was trained from: configuration and tokenizer.
        card: the model card, which becomes README.md. temperature: what is recommended; 0 is greedy.
    Raises: DataError when there are no such weights.
    """
    from transformers import GenerationConfig

    if not weights.is_file():
        raise DataError(f"{weights}: no weights to export; run notebook 03_async_rl, or take a checkpoint")
    renderer = ChatRenderer.load(model_dir)
    renderer.tokenizer.chat_template = CHAT_TEMPLATE
    sampling = {"do_sample": True, "temperature": temperature} if temperature > 0 else {"do_sample": False}
    ends = {"eos_token_id": renderer.end_of_turn, "pad_token_id": renderer.tokenizer.pad_token_id}
    with atomic_path(target) as temporary:
        shutil.copytree(model_dir, temporary, ignore=shutil.ignore_patterns(*WEIGHTS))
        shutil.copyfile(weights, temporary / "model.safetensors")
        renderer.tokenizer.save_pretrained(temporary)
        GenerationConfig(**ends, **sampling).save_pretrained(temporary)
        (temporary / "README.md").write_text(card, encoding="utf-8")
