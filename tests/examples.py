"""How many examples hypothesis draws: an eighth in each `make test`, all of them in `make soak` and `make kills`."""

import os


def examples(full: int, *, least: int = 4) -> int:
    """`full` where MLREG_TEST_EXAMPLES=all, else an eighth of it, but `least` if there are as many.

    Fewer are for examples that take half a second each.
    """
    if os.environ.get("MLREG_TEST_EXAMPLES") == "all":
        return full
    return max(full // 8, min(full, least))
