"""How many examples hypothesis draws: a quarter in each `make test`, all of them in `make soak` and `make kills`."""

import os


def examples(full: int, *, least: int = 5) -> int:
    """`full` where MLREG_TEST_EXAMPLES=all, else a quarter of it, but `least` if there are as many.

    Less than five are for examples that take half a second each.
    """
    if os.environ.get("MLREG_TEST_EXAMPLES") == "all":
        return full
    return max(full // 4, min(full, least))
