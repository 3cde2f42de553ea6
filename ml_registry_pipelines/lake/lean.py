"""A lean start for processes that live for one task and need Arrow, but no pandas.

pyarrow imports pandas at its first scalar or array, wherever pandas is installed: a second of
CPU time that such a process spends for nothing.
"""

from __future__ import annotations

import sys


class _WithoutPandas:
    def find_spec(self, name: str, *_: object) -> None:
        if name == "pandas":
            # As Python says of what is not installed: who asks by `find_spec`, as lancedb does, catches no other.
            raise ModuleNotFoundError("this process does without pandas", name=name)


def without_pandas() -> None:
    """Make pandas look absent to this process, for good; to be called before anything imports it."""
    sys.meta_path.insert(0, _WithoutPandas())
