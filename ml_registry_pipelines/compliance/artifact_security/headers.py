"""Formats that hold tensors and no code: safetensors and GGUF, whose headers have to add up."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from math import prod
from typing import IO, Any

from ml_registry_pipelines.compliance.artifact_security.findings import readable
from ml_registry_pipelines.compliance.artifact_security.reading import size_of
from ml_registry_pipelines.compliance.artifact_security.symbols import Broken

MOST_HEADER = 100_000_000
"""Bytes of a safetensors header; its reference implementation allows no more."""
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E5M2": 8, "F8_E4M3": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8,
    "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32, "U32": 32,
    "F32": 32, "C64": 64, "F64": 64, "I64": 64, "U64": 64,
}  # fmt: skip


def check_safetensors(stream: IO[bytes]) -> dict[str, str]:
    """Raises `Broken` unless the header adds up with the file; gives its metadata.

    Every tensor is as long as type and shape say, and together they cover the data exactly:
    https://github.com/huggingface/safetensors#format
    """
    size = size_of(stream)
    head = stream.read(8)
    if len(head) < 8:
        raise Broken("it is shorter than a header")
    (length,) = struct.unpack("<Q", head)
    if length > MOST_HEADER:
        raise Broken(f"its header has more than {MOST_HEADER:,} bytes")
    if length > size - 8:
        raise Broken("its header is longer than the file")
    header = json_object(stream.read(length))
    metadata = header.pop("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(v, str) for v in metadata.values()):
        raise Broken("its metadata are not texts")
    at = 0
    for begin, end, name in sorted(_tensor(name, given) for name, given in header.items()):
        if begin != at:
            what = "overlaps another" if begin < at else "leaves bytes before it that belong to none"
            raise Broken(f"tensor {readable(name)} {what}")
        at = end
    if at != size - 8 - length:
        raise Broken(
            f"{size - 8 - length - at:,} bytes behind its tensors belong to none"
            if at < size - 8 - length
            else "its tensors are longer than the file"
        )
    return metadata


def _tensor(name: str, given: Any) -> tuple[int, int, str]:
    where = readable(name)
    if not isinstance(given, dict) or set(given) != {"dtype", "shape", "data_offsets"}:
        raise Broken(f"tensor {where} lacks dtype, shape or data_offsets, or has more")
    shape, offsets = given["shape"], given["data_offsets"]
    if given["dtype"] not in _BITS:
        raise Broken(f"tensor {where} has an unknown type")
    if not _counts(shape) or not _counts(offsets) or len(offsets) != 2:
        raise Broken(f"tensor {where} has a shape or place that is none")
    bits = prod(shape) * _BITS[given["dtype"]]
    if bits % 8 or bits // 8 != offsets[1] - offsets[0]:
        raise Broken(f"tensor {where} is not as long as its type and shape say")
    return offsets[0], offsets[1], name


def _counts(given: Any) -> bool:
    return isinstance(given, list) and all(type(n) is int and n >= 0 for n in given)


def json_object(data: bytes) -> dict[str, Any]:
    """A JSON object without doubled keys, of which two readers could take different ones.

    Raises:
        Broken: it is none.
    """

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise Broken("a key is there twice")
        return found

    try:
        found = json.loads(data, object_pairs_hook=once)
    except (ValueError, RecursionError):
        raise Broken("it is no JSON") from None
    if not isinstance(found, dict):
        raise Broken("it is no JSON object")
    return found


# -- GGUF -----------------------------------------------------------------------------------------

_GGUF_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_MOST_KEYS, _MOST_TENSORS, _MOST_DIMENSIONS, _MOST_NESTED = 65_536, 1_000_000, 4, 4
_MOST_TYPE = 64


class _Gguf:
    def __init__(self, stream: IO[bytes], size: int, template: Callable[[str], None]) -> None:
        self.stream, self.size, self.template = stream, size, template

    def number(self, form: str) -> Any:
        data = self.stream.read(struct.calcsize(form))
        if len(data) < struct.calcsize(form):
            raise Broken("its header ends too soon")
        return struct.unpack(form, data)[0]

    def skip(self, count: int) -> None:
        if count > self.size - self.stream.tell():
            raise Broken("a value of its header is longer than the file")
        self.stream.seek(count, 1)

    def text(self) -> str:
        length = self.number("<Q")
        if length > self.size - self.stream.tell():
            raise Broken("a text of its header is longer than the file")
        if length > 1 << 24:
            raise Broken("a text of its header has more than 16 MiB")
        return self.stream.read(length).decode("utf-8", "replace")

    def value(self, kind: int, depth: int = 0) -> object:
        if kind in _GGUF_SIZES:
            if kind == 4:
                return self.number("<I")
            self.skip(_GGUF_SIZES[kind])
            return None
        if kind == _STRING:
            return self.text()
        if kind != _ARRAY or depth >= _MOST_NESTED:
            raise Broken("a value of its header has an unknown type")
        inner, count = self.number("<I"), self.number("<Q")
        if inner in _GGUF_SIZES:
            self.skip(_GGUF_SIZES[inner] * count)
            return None
        if count > self.size - self.stream.tell():
            raise Broken("a list of its header is longer than the file")
        for _ in range(count):
            self.value(inner, depth + 1)
        return None


def check_gguf(stream: IO[bytes], template: Callable[[str], None]) -> None:
    """Raises `Broken` unless every count and length of the header lies inside the file.

    `template` is given each chat template. Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
    """
    size = size_of(stream)
    reader = _Gguf(stream, size, template)
    stream.seek(4)
    version = reader.number("<I")
    if version not in (2, 3):
        raise Broken(f"its version {version} is not known")
    tensors, keys = reader.number("<Q"), reader.number("<Q")
    if tensors > _MOST_TENSORS or keys > _MOST_KEYS:
        raise Broken("its header says that it has more tensors or keys than any model")
    alignment = 32
    seen: set[str] = set()
    for _ in range(keys):
        key = reader.text()
        if key in seen:
            raise Broken(f"key {readable(key)} is there twice")
        seen.add(key)
        value = reader.value(reader.number("<I"))
        if key.startswith("tokenizer.chat_template") and isinstance(value, str):
            template(value)
        if key == "general.alignment":
            if not isinstance(value, int) or value == 0 or value % 8 or value > 1 << 20:
                raise Broken("its alignment is none")
            alignment = value
    offsets = [_gguf_tensor(reader, seen, alignment) for _ in range(tensors)]
    data = -(-stream.tell() // alignment) * alignment
    if offsets and data + max(offsets) >= size:
        raise Broken("a tensor lies behind the end of the file")
    if len(set(offsets)) != len(offsets):
        raise Broken("two tensors lie in one place")


def _gguf_tensor(reader: _Gguf, seen: set[str], alignment: int) -> int:
    name = reader.text()
    if f"\0{name}" in seen or len(name.encode()) > 64:
        raise Broken(f"tensor {readable(name)} is there twice or has too long a name")
    seen.add(f"\0{name}")
    dimensions = reader.number("<I")
    if dimensions > _MOST_DIMENSIONS:
        raise Broken(f"tensor {readable(name)} has more than {_MOST_DIMENSIONS} dimensions")
    elements = prod(reader.number("<Q") for _ in range(dimensions))
    if elements >= 1 << 63:
        raise Broken(f"tensor {readable(name)} has more elements than can be counted")
    if reader.number("<I") > _MOST_TYPE:
        raise Broken(f"tensor {readable(name)} has an unknown type")
    offset = int(reader.number("<Q"))
    if offset % alignment:
        raise Broken(f"tensor {readable(name)} is not aligned")
    return offset
