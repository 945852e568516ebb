"""An open, runnable, tested reproduction of the Biomni-R0 recipe.

Importing this package is cheap: rooms that need torch or wandb import them themselves.
"""

__version__ = "0.1.0"
