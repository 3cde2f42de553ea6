"""Which globals a pickle may name, by framework. Everything else is flagged.

A global is on the list if calling it with any arguments, setting any state on what it gives, and
appending to that can neither run code of the file's author nor reach anything outside the process.
A function that takes a callable, an attribute's name, a path, an address or source code never is;
neither is anything that a module was only found harmless by not being known to harm.
"""

from __future__ import annotations

import _compat_pickle
from collections.abc import Mapping
from functools import cache

from ml_registry_pipelines.compliance.artifact_security.allowed_sklearn import SKLEARN

_BUILTINS = "bool bytearray bytes complex dict float frozenset int list object set slice str tuple"
_ARRAYS = "_reconstruct scalar"
_SPARSE = {
    f"scipy.sparse._{kind}": f"{kind}_array {kind}_matrix" for kind in ("bsr", "coo", "csc", "csr", "dia")
}
_SCALARS = (
    "bool bool_ complex128 complex64 dtype float16 float32 float64 int16 int32 int64 int8 ndarray "
    "uint16 uint32 uint64 uint8"
)
_STORAGES = (
    "BFloat16Storage BoolStorage ByteStorage CharStorage ComplexDoubleStorage ComplexFloatStorage "
    "DoubleStorage FloatStorage HalfStorage IntStorage LongStorage QInt32Storage QInt8Storage "
    "QUInt2x4Storage QUInt4x2Storage QUInt8Storage ShortStorage"
)

FRAMEWORKS: Mapping[str, Mapping[str, str]] = {
    "python": {
        "builtins": _BUILTINS,
        "__builtin__": f"{_BUILTINS} long unicode",
        "copyreg": "_reconstructor",
        "copy_reg": "_reconstructor",
        "_codecs": "encode",
        "collections": "Counter OrderedDict defaultdict deque",
        "datetime": "date datetime time timedelta timezone",
        "decimal": "Decimal",
        "fractions": "Fraction",
    },
    "numpy": {
        "numpy": _SCALARS,
        "numpy.core.multiarray": _ARRAYS,
        "numpy._core.multiarray": _ARRAYS,
        "numpy.core.numeric": "_frombuffer",
        "numpy._core.numeric": "_frombuffer",
        "numpy.dtypes": (
            "BoolDType Float32DType Float64DType Int32DType Int64DType ObjectDType StrDType UInt8DType"
        ),
        "numpy.ma": "MaskedArray",
        "numpy.ma.core": "MaskedArray _mareconstruct",
        "numpy.random._mt19937": "MT19937",
        "numpy.random._pcg64": "PCG64 PCG64DXSM",
        "numpy.random._philox": "Philox",
        "numpy.random._sfc64": "SFC64",
        "numpy.random._pickle": "__bit_generator_ctor __generator_ctor __randomstate_ctor",
        "numpy.random.bit_generator": "SeedSequence __pyx_unpickle_SeedSequence",
    },
    "scipy": {**_SPARSE, "scipy.interpolate._bsplines": "BSpline"},
    "scikit-learn": SKLEARN,
    "joblib": {"joblib.numpy_pickle": "NumpyArrayWrapper"},
    "pytorch": {
        "torch": (
            f"{_STORAGES} Size Tensor bfloat16 bool complex128 complex64 device float16 float32 float64 "
            "int16 int32 int64 int8 uint8"
        ),
        "torch._utils": (
            "_rebuild_parameter _rebuild_qtensor _rebuild_sparse_tensor _rebuild_tensor _rebuild_tensor_v2"
        ),
        "torch.nn.parameter": "Parameter",
        "torch.storage": "TypedStorage UntypedStorage _TypedStorage _UntypedStorage",
    },
}
"""Names by module by framework, separated by blanks."""

STORAGE_BYTES: Mapping[str, int] = {
    **dict.fromkeys(("BoolStorage", "ByteStorage", "CharStorage", "QInt8Storage", "QUInt8Storage"), 1),
    **dict.fromkeys(("BFloat16Storage", "HalfStorage", "ShortStorage"), 2),
    **dict.fromkeys(("FloatStorage", "IntStorage", "QInt32Storage"), 4),
    **dict.fromkeys(("ComplexFloatStorage", "DoubleStorage", "LongStorage"), 8),
    "ComplexDoubleStorage": 16,
}
"""Bytes of an element of PyTorch's typed storages."""


@cache
def _allowed() -> Mapping[tuple[str, str], str]:
    return {
        (module, name): framework
        for framework, modules in FRAMEWORKS.items()
        for module, names in modules.items()
        for name in names.split()
    }


def framework_of(module: str, name: str) -> str | None:
    """The framework whose list has the global; None: it is on none.

    Up to protocol 2 an unpickler replaces names of Python 2, so the global has to be on the list
    under the name that it is replaced by as well.
    """
    given = (module, name)
    replaced = _compat_pickle.NAME_MAPPING.get(
        given, (_compat_pickle.IMPORT_MAPPING.get(module, module), name)
    )
    allowed = _allowed()
    return allowed.get(given) if replaced in allowed or given == replaced else None


@cache
def _classes() -> frozenset[str]:
    return frozenset(name for _, name in _allowed() if name[:1].isupper())


def is_class_name(module: object) -> bool:
    """Whether it is the name of a class of the list, which no module bears.

    A reader that is no joblib meets such pairs in joblib's arrays of objects, and stops there.
    """
    return isinstance(module, str) and module in _classes()
