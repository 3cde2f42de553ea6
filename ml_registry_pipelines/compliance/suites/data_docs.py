"""Data Docs: the HTML pages that Great Expectations makes of results, built anew from the evidence.

Below `reports/data_docs/`, one site per version that shows its newest build. They hold numbers, names of
checks and of parts of a model, and no value of anybody's: the evidence has none.
"""

from __future__ import annotations

import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from ml_registry_pipelines.compliance.suites.expectations import Asserted, judge
from ml_registry_pipelines.lake.files import open_folder

if TYPE_CHECKING:
    from ml_registry_pipelines.compliance.evidence import Evidence
    from ml_registry_pipelines.compliance.results import Result
    from ml_registry_pipelines.lake.lake import Lake

FOLDER = "data_docs"
INDEX = "index.html"
_FETCHED = re.compile(
    rb"<script[^>]*\ssrc=[\"']?(?:https?:)?//[^>]*>\s*</script>|<(?:link|img|iframe)[^>]*\s(?:href|src)=[\"']?(?:https?:)?//[^>]*>",
    re.IGNORECASE,
)


def build_data_docs(lake: Lake, evidence: Evidence) -> str:
    """Build the site of one run of suites, in the place of the version's last one.

    Returns:
        The address of its front page, a path or `s3://...`.
    """
    subject = next((result.subject for result in evidence.results), None)
    place = f"{evidence.tenant}/{subject.version_id if subject else 'audit'}"
    target = open_folder(f"{lake.root}/reports/{FOLDER}/{place}", lake.storage_options)
    suites = sorted({result.suite for result in evidence.results})
    with tempfile.TemporaryDirectory(prefix="mlreg-data-docs-") as folder:
        site = Path(folder)
        judge(", ".join(suites), [_asserted(result) for result in evidence.results], site=site)
        made = {file.relative_to(site).as_posix(): file for file in site.rglob("*") if file.is_file()}
        for entry in list(target.entries()):
            if entry.path not in made:
                target.delete(entry.path)
        # The front page last: it never leads to a page that is not there.
        for path in sorted(made, key=lambda path: path == INDEX):
            data = made[path].read_bytes()
            target.write(path, _alone(data) if path.endswith(".html") else data)
    return f"{target.uri}/{INDEX}"


def _alone(page: bytes) -> bytes:
    """The page without what a browser would fetch for it from other hosts."""
    return _FETCHED.sub(b"", page)


def _asserted(result: Result) -> Asserted:
    return Asserted(
        metric=result.metric,
        check=f"{result.suite}: {result.check}",
        about=result.about,
        severity=result.severity,
        article=result.article,
        at_least=result.low,
        at_most=result.high if result.high is not None or result.low is not None else 0.0,
        value=result.observed,
        interval=result.interval,
        n=result.n,
        says=f"{result.suite}: {result.check}: {result.verdict.value}. {result.message}",
    )
