"""The root of every error that a user may meet: its text is one clear sentence.

Each room declares its own errors beside the code that raises them, below `MlregError`.
Doors (CLI, jobs) print the text alone; anything else that escapes is a defect.
"""


class MlregError(Exception):
    """What was wrong, where, and what to do, in one sentence."""
