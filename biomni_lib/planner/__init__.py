"""The memory and time planner: what a preset needs, from formulas, before anything starts.

Activations at full attention and the tensors of transformers' layers are counted; what vLLM and CUDA keep for
themselves is a reserve. Not covered: pipeline parallelism, quantised weights, optimizers on the host.
"""

from biomni_lib.planner.cards import Card, find_cards, parse_cards
from biomni_lib.planner.plan import Plan, make_plan
from biomni_lib.planner.shapes import Shape, shape_of
from biomni_lib.planner.told import tell

__all__ = ["Card", "Plan", "Shape", "find_cards", "make_plan", "parse_cards", "shape_of", "tell"]
