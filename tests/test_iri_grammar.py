"""The grammar of internationalised addresses is computed when the first one is checked, and then it checks."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import sys
from ml_registry_pipelines.iri_grammar import put_off

put_off()
from jsonschema import Draft202012Validator, ValidationError

checked = Draft202012Validator({"format": "iri"}, format_checker=Draft202012Validator.FORMAT_CHECKER)
assert "lark" not in sys.modules, "the grammar was computed on import"
print([checked.is_valid(text) for text in ("https://bücher.example/ä?q=1", "urn:a:b", "no address", "http://[")])
print(sys.modules["rfc3987_syntax"].__file__ is not None)
"""


def test_addresses_are_checked_as_ever_though_the_grammar_waits():
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert (done.stdout.splitlines(), done.stderr) == (["[True, True, False, False]", "True"], "")
