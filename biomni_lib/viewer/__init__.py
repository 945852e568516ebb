"""Trajectories to look at: in a notebook, and as one HTML file that needs no network.

Both show what the ledger recorded and grade nothing anew. What a model wrote is hostile: in the file it travels as
compressed data and reaches the page as text only, in a notebook it is escaped; control characters and characters that
turn the reading direction are shown by their number.
"""

from biomni_lib.viewer.notebook import Conversations, show
from biomni_lib.viewer.page import render_page
from biomni_lib.viewer.records import Entry, select

__all__ = ["Conversations", "Entry", "render_page", "select", "show"]
