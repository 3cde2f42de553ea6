"""How many bytes an array has, from what a pickle says of it or from the header of an .npy file."""

from __future__ import annotations

import ast
import re
import struct
from typing import IO, Any

from ml_registry_pipelines.compliance.artifact_security.symbols import Broken, Global, Made, Pairs

NPY = b"\x93NUMPY"
_SIMPLE = re.compile(r"[<>|=]?([?bhilqBHILQefdgFDGSUVOMmiuc])(\d*)(\[.*\])?")
_SIZES = {
    "?": 1, "b": 1, "B": 1, "h": 2, "H": 2, "e": 2, "i": 4, "I": 4, "f": 4, "l": 8, "L": 8, "q": 8, "Q": 8,
    "d": 8, "F": 8, "D": 16, "M": 8, "m": 8, "g": 16, "G": 32,
}  # fmt: skip
_HAS_OBJECTS = 0x01
"""Flag of a numpy dtype whose elements are, or hold, Python objects."""


def array_bytes(wrapper: Made) -> int | None:
    """Bytes of the array that follows joblib's description; None where a pickle follows in their place.

    Raises:
        Broken: the description is none that joblib writes.
    """
    state = wrapper.state
    if not isinstance(state, Pairs):
        raise Broken("the description of an array is no dictionary")
    shape = state.get("shape")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise Broken("the shape of an array is no tuple of numbers")
    size = _item_bytes(state.get("dtype"))
    if size is None:
        return None
    count = 1
    for n in shape:
        count *= n
    return count * size


def _item_bytes(dtype: object) -> int | None:
    """Bytes of an element; None for objects."""
    match dtype:
        case Made(callee=Global(module="numpy", name="dtype"), arguments=(str(text), *_), state=state):
            size = simple_bytes(text)
            if size is None:
                return None
            flags, itemsize, fields = _structure(state)
            if flags & _HAS_OBJECTS:
                return None
            if fields and (not text.lstrip("|<>=").startswith("V") or itemsize != size):
                raise Broken("the fields of an array's type contradict it")
            return size
        case _:
            raise Broken("the type of an array is not given by a name")


def _structure(state: object) -> tuple[int, int, bool]:
    """Flags, bytes and whether there are fields, from the state of a dtype."""
    match state:
        case None:
            return 0, -1, False
        case (int(), _, _, names, _, int(itemsize), int(), int(flags), *_):
            return flags, itemsize, names is not None
        case _:
            raise Broken("the state of an array's type is none that numpy writes")


def simple_bytes(text: str) -> int | None:
    """Bytes of an element of a type by its code, such as `<f8`; None for objects.

    Raises:
        Broken: the code is not known.
    """
    found = _SIMPLE.fullmatch(text)
    if found is None:
        raise Broken("the type of an array is not known")
    code, digits, _ = found.groups()
    if code == "O":
        return None
    if code in "SV" and digits:
        return int(digits)
    if code == "U" and digits:
        return 4 * int(digits)
    if digits and code in "?biufcMm":
        return int(digits)
    if not digits and code in _SIZES:
        return _SIZES[code]
    raise Broken("the type of an array is not known")


def npy_header(stream: IO[bytes]) -> tuple[tuple[int, ...], int | None]:
    """Shape and bytes of an element (None: objects, a pickle follows) of an .npy file; leaves the stream behind it.

    Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html

    Raises:
        Broken: it is no header.
    """
    head = stream.read(8)
    if len(head) < 8 or not head.startswith(NPY) or head[6] not in (1, 2, 3):
        raise Broken("the header of the array is of no known version")
    form = "<H" if head[6] == 1 else "<I"
    length = struct.unpack(form, stream.read(struct.calcsize(form)))[0]
    if length > 1 << 20:
        raise Broken("the header of the array is longer than 1 MiB")
    try:
        given: Any = ast.literal_eval(
            stream.read(length).decode("utf-8" if head[6] == 3 else "latin-1").strip()
        )
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        raise Broken("the header of the array is no dictionary of literals") from None
    if not isinstance(given, dict) or set(given) != {"descr", "fortran_order", "shape"}:
        raise Broken("the header of the array lacks descr, fortran_order or shape, or has more")
    shape = given["shape"]
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise Broken("the shape of the array is no tuple of numbers")
    return shape, _described_bytes(given["descr"])


def _described_bytes(descr: Any) -> int | None:
    """Bytes of an element from `descr`, which is a code or a list of fields."""
    if isinstance(descr, str):
        return simple_bytes(descr)
    if isinstance(descr, tuple) and len(descr) == 2:
        descr = [("", *descr)]
    if not isinstance(descr, list):
        raise Broken("the type of the array is not known")
    total = 0
    for field in descr:
        if not isinstance(field, tuple) or len(field) not in (2, 3):
            raise Broken("a field of the array's type is none")
        size = _described_bytes(field[1])
        if size is None:
            return None
        times = 1
        shape = field[2] if len(field) == 3 else ()
        for n in shape if isinstance(shape, tuple) else (shape,):
            if type(n) is not int or n < 0:
                raise Broken("a field of the array's type has no shape")
            times *= n
        total += size * times
    return total
