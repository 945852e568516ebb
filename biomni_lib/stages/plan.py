"""`plan`: what a preset takes, printed. Before a start: what cannot work here is refused, and the model fetched."""

import psutil

from biomni_lib.config import RunConfig
from biomni_lib.engines.pretrained import have_model
from biomni_lib.errors import RunError
from biomni_lib.planner import find_cards, make_plan, parse_cards, tell


def run(
    config: RunConfig, *, gpu: str | None = None, tokens: float | None = None, written: float | None = None
) -> bool:
    """Print the plan.

    Args:
        gpu: cards such as `H100-80GB x8`; those found here when None. tokens, written: mean length of a trajectory, and
            the share of it that the model writes.
    Returns: whether it fits; False where there is no card to fit on.
    Raises: ConfigError for cards or a model that are not known.
    """
    from biomni_lib.rl.logprobs import LOGITS_MAX

    plan = make_plan(config, mean_tokens=tokens, written_share=written, logits_max=LOGITS_MAX)
    cards = parse_cards(gpu) if gpu else find_cards()
    print(tell(plan, cards, psutil.virtual_memory().total), flush=True)
    return config.engine.kind != "vllm" or (cards is not None and plan.fits(*cards))


def before_start(config: RunConfig) -> None:
    """Print the plan of a preset with a pretrained model, refuse it where it cannot run, and make or fetch the model.

    Raises: RunError when it does not fit on the cards found, or the model cannot be had; ConfigError when none is
        named.
    """
    if config.model.path is None:
        return
    if not run(config):
        raise RunError(
            f"preset {config.preset} does not fit on the GPUs of this machine (the plan above says why); take other "
            "cards, or change placement.share, agent.max_tokens or the model"
        )
    print(f"\nmodel: {have_model(config.model)}", flush=True)
