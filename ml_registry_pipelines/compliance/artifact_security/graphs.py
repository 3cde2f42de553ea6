"""ONNX graphs: parsed and checked without following a reference to another file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from ml_registry_pipelines.compliance.artifact_security.findings import readable
from ml_registry_pipelines.compliance.artifact_security.symbols import Broken

if TYPE_CHECKING:
    import onnx

MOST_ONNX = 2_000_000_000
"""Bytes that a protobuf message may have."""
STANDARD = {"", "ai.onnx", "ai.onnx.ml", "ai.onnx.training", "ai.onnx.preview.training", "ai.onnx.preview"}
Say = Callable[[str], None]


def check_onnx(data: bytes, *, custom: Say, external: Say, refers: Say) -> None:
    """Raises `Broken` unless it is a valid graph; tells of custom operators and of paths that lead astray.

    Args:
        custom: told of domains outside the standard.
        external: told of a path that leaves the folder of the model.
        refers: told of every file that holds tensors.
    """
    import onnx
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

    try:
        model = onnx.ModelProto.FromString(data)
    except DecodeError:
        raise Broken("it is no ONNX model") from None
    if not model.HasField("graph") or not model.opset_import:
        raise Broken("it is no ONNX model: it has no graph or no set of operators")
    for domain in sorted(_domains(model) - STANDARD):
        custom(f"it uses operators of {readable(domain)}, which a library outside the standard runs")
    outside = False
    for tensor in _tensors(model):
        if tensor.data_location != onnx.TensorProto.EXTERNAL and not tensor.external_data:
            continue
        outside = True
        _check_location(tensor, external, refers)
    if outside:
        _close(model)
    try:
        onnx.checker.check_model(model)
    except onnx.checker.ValidationError as failure:
        reason = str(failure).splitlines()[0] if str(failure) else "no reason given"
        raise Broken(f"the checker of ONNX refuses it: {readable(reason)}") from None


def _check_location(tensor: Any, external: Say, refers: Say) -> None:
    given = {entry.key: entry.value for entry in tensor.external_data}
    location = given.get("location", "")
    if (
        not location
        or location.startswith("/")
        or "\\" in location
        or "\0" in location
        or location[1:2] == ":"
        or "://" in location
        or ".." in PurePosixPath(location).parts
    ):
        external(f"a tensor lies at {readable(location) or 'no path'}, outside the folder of the model")
    else:
        refers(location)
    for key in ("offset", "length"):
        if key in given and not (given[key].isascii() and given[key].isdecimal()):
            external(f"the {key} of a tensor in another file is no number")


def _graphs(model: onnx.ModelProto) -> Iterator[Any]:
    """All graphs and functions, those inside nodes too."""
    pending: list[Any] = [model.graph, *model.functions]
    pending += [g for info in model.training_info for g in (info.initialization, info.algorithm)]
    while pending:
        graph = pending.pop()
        yield graph
        for node in graph.node:
            for attribute in node.attribute:
                pending += [attribute.g] if attribute.HasField("g") else []
                pending += list(attribute.graphs)


def _domains(model: onnx.ModelProto) -> set[str]:
    own = {function.domain for function in model.functions}
    used = {node.domain for graph in _graphs(model) for node in graph.node}
    return (used - own) | {opset.domain for opset in model.opset_import} - own


def _tensors(model: onnx.ModelProto) -> Iterator[Any]:
    for graph in _graphs(model):
        yield from getattr(graph, "initializer", ())
        for sparse in getattr(graph, "sparse_initializer", ()):
            yield from (sparse.values, sparse.indices)
        for node in graph.node:
            for attribute in node.attribute:
                if attribute.HasField("t"):
                    yield attribute.t
                yield from attribute.tensors
                for sparse in [attribute.sparse_tensor, *attribute.sparse_tensors]:
                    yield from (sparse.values, sparse.indices)


def _close(model: onnx.ModelProto) -> None:
    """Put one number in the place of each tensor of another file, so that the checker reads none."""
    import onnx

    for tensor in _tensors(model):
        if tensor.data_location == onnx.TensorProto.EXTERNAL or tensor.external_data:
            name = tensor.name
            tensor.Clear()
            tensor.CopyFrom(onnx.TensorProto(name=name, data_type=onnx.TensorProto.FLOAT, float_data=[0.0]))
