"""Training code of one's own as assets: `from ml_registry_pipelines.training import trained_model`.

The front door of the room; docs/train-a-model.md shows how to use it.
"""

from ml_registry_pipelines.compliance.evaluation_rows import Columns, Outcome
from ml_registry_pipelines.registry.artifacts import Uri
from ml_registry_pipelines.registry.versions import Artifact
from ml_registry_pipelines.training.assets import dataset_key, model_key, tracked_dataset, trained_model
from ml_registry_pipelines.training.checking import Checks
from ml_registry_pipelines.training.models import TrainedModel
from ml_registry_pipelines.training.resource import RegistryResource
from ml_registry_pipelines.training.sets import TrainingSet

__all__ = [
    "Artifact",
    "Checks",
    "Columns",
    "Outcome",
    "RegistryResource",
    "TrainedModel",
    "TrainingSet",
    "Uri",
    "dataset_key",
    "model_key",
    "tracked_dataset",
    "trained_model",
]
