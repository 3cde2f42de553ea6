"""The text of model cards, for their words."""

from __future__ import annotations

from pathlib import PurePosixPath

from ml_registry_pipelines.lake.files import FilesError
from ml_registry_pipelines.lake.lake import Lake
from ml_registry_pipelines.registry.artifacts import ArtifactStore
from ml_registry_pipelines.registry.blobs import blob_path
from ml_registry_pipelines.registry.content import ArtifactError
from ml_registry_pipelines.search.index.folding import CardReader

MAX_BYTES = 256 * 1024
"""Of one card; what is longer is cut there."""
SUFFIXES = frozenset({"", ".md", ".markdown", ".txt", ".rst", ".html", ".json", ".yaml", ".yml"})


def card_reader(lake: Lake) -> CardReader:
    """Reads cards of a lake's artifacts. What is no text, or cannot be read, has no words."""
    store = ArtifactStore(lake)

    def read(digest: str) -> str:
        try:
            files = [f for f in store.files(digest) if PurePosixPath(f.path).suffix.lower() in SUFFIXES]
            texts, left = [], MAX_BYTES
            for file in files:
                if left <= 0:
                    break
                with store.blobs.folder.open(blob_path(file.sha256)) as stream:
                    data = stream.read(left)
                left -= len(data)
                if b"\0" not in data:
                    texts.append(data.decode("utf-8", "ignore"))
            return "\n".join(texts)
        except (ArtifactError, FilesError, OSError):
            # A card that is gone is the artifact checks' business; a search goes on without its words.
            return ""

    return read
