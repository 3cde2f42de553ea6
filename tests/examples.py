"""How many examples hypothesis draws, and which.

`make test` draws an eighth, the same ones each time, so that a commit passes or fails for good; `make soak` and
`make kills` draw all, anew each time.
"""

import os

ALL = os.environ.get("MLREG_TEST_EXAMPLES") == "all"


def examples(full: int, *, least: int = 4) -> int:
    """`full` where MLREG_TEST_EXAMPLES=all, else an eighth of it, but `least` if there are as many.

    Fewer are for examples that take half a second each.
    """
    if ALL:
        return full
    return max(full // 8, min(full, least))
