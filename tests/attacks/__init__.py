"""What hostile code tries from inside a session, each with its own proof that the harm did not happen.

`python -m tests.attacks TIER` starts a sandbox and runs the attacks named on its standard input, one a line, each
answered by one line of JSON: null, or the failure. After each the neighbour session and the zygote must still work.
No test library is imported, so that any Python of any user can run it.
"""


def no_names(lake_dir):
    """Provider of the names that these sessions find defined: none."""
    return {}
