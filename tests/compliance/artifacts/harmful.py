"""Files that would run something, written by hand operation by operation. None of them is ever loaded."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterator

TOUCH = "touch PWNED"


def short(text: str) -> bytes:
    return b"\x8c" + bytes([len(text)]) + text.encode()


def long(text: str) -> bytes:
    return b"X" + struct.pack("<I", len(text)) + text.encode()


def old(module: str, name: str) -> bytes:
    """GLOBAL."""
    return f"c{module}\n{name}\n".encode()


def new(module: str, name: str) -> bytes:
    """STACK_GLOBAL."""
    return short(module) + short(name) + b"\x93"


CALL = short(TOUCH) + b"\x85R."
"""The argument, in a tuple; REDUCE; STOP."""
PROTO4 = b"\x80\x04"
SYSTEM = PROTO4 + new("os", "system") + CALL
NUMPY_HEADER = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }"


def zipped(entries: dict[str, bytes], *, method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, data in entries.items():
            archive.writestr(name, data)
    return out.getvalue()


def tarred(entries: dict[str, bytes], mode: str = "w") -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, data in entries.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def npy(header: bytes, data: bytes) -> bytes:
    header = header.ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + data


def _joblib_polyglot() -> bytes:
    """Joblib takes the bytes in the middle for an array; any other loader takes them for operations."""
    inside = new("os", "system") + CALL
    inside = inside.ljust(-(-len(inside) // 8) * 8, b".")
    state = (
        b"}("
        + short("subclass") + new("numpy", "ndarray")
        + short("shape") + b"K" + bytes([len(inside) // 8]) + b"\x85"
        + short("order") + short("C")
        + short("dtype") + new("numpy", "dtype") + short("f8") + b"\x89\x88\x87R"
        + short("allow_mmap") + b"\x89"
        + b"u"
    )  # fmt: skip
    return PROTO4 + new("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81" + state + b"b" + inside + b"."


def _joblib_objects() -> bytes:
    """An array of objects: joblib reads a pickle in the place of its bytes."""
    state = (
        b"}("
        + short("shape") + b"K\x01\x85"
        + short("dtype") + new("numpy", "dtype") + short("O8") + b"\x89\x88\x87R"
        + b"u"
    )  # fmt: skip
    return PROTO4 + new("joblib.numpy_pickle", "NumpyArrayWrapper") + b")\x81" + state + b"b" + SYSTEM + b"."


def _legacy_torch() -> bytes:
    magic = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
    return magic + pickle.dumps(1001, protocol=2) + pickle.dumps({"little_endian": True}, protocol=2) + SYSTEM


def _wrong_checksum() -> bytes:
    data = bytearray(zipped({"archive/data.pkl": SYSTEM}))
    for at in (data.find(b"PK\x03\x04") + 14, data.find(b"PK\x01\x02") + 16):
        data[at] ^= 0xFF
    return bytes(data)


def _two_names() -> bytes:
    """The header before the entry says another name than the directory."""
    return zipped({"aaaa.txt": b"x"}).replace(b"aaaa.txt", b"data.pkl", 1)


def _overlapping() -> bytes:
    """Two entries of the directory share one place."""
    data = zipped({"a.txt": b"hello"})
    end = data.find(b"PK\x05\x06")
    start = data.find(b"PK\x01\x02")
    entry = data[start:end]
    twice = entry + entry.replace(b"a.txt", b"b.txt")
    return data[:start] + twice + struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2, 2, len(twice), start, 0)


def _gguf(template: str) -> bytes:
    key, text = b"tokenizer.chat_template", template.encode()
    body = struct.pack("<Q", len(key)) + key + struct.pack("<IQ", 8, len(text)) + text
    return b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + body


def _safetensors(header: object, data: bytes) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def pickles() -> Iterator[tuple[str, bytes]]:
    """Kinds of pickles, each of which calls something."""
    yield "global, protocol 0", b"cos\nsystem\n(S'touch PWNED'\ntR."
    yield "global, protocol 1", old("os", "system") + b"(" + b"U\x0b" + TOUCH.encode() + b"tR."
    yield "global, protocol 2", b"\x80\x02" + old("posix", "system") + long(TOUCH) + b"\x85R."
    yield "global, protocol 3", b"\x80\x03" + old("nt", "system") + long(TOUCH) + b"\x85R."
    yield "stack global, protocol 4", SYSTEM
    yield "stack global, protocol 5", b"\x80\x05" + SYSTEM[2:]
    yield "framed", PROTO4 + b"\x95" + struct.pack("<Q", len(SYSTEM) - 2) + SYSTEM[2:]
    yield "no protocol", SYSTEM[2:]
    yield "inst", b"(S'touch PWNED'\nios\nsystem\n."
    yield "obj", b"(" + old("os", "system") + b"S'touch PWNED'\no."
    yield "newobj", PROTO4 + new("subprocess", "Popen") + CALL.replace(b"R.", b"\x81.")
    yield "newobj with keywords", PROTO4 + new("subprocess", "Popen") + short(TOUCH) + b"\x85}\x92."
    yield "build on an allowed class", PROTO4 + new("collections", "OrderedDict") + b"}" + b"b."
    yield (
        "names from the memo",
        (PROTO4 + short("os") + b"\x940" + short("system") + b"\x940h\x00h\x01\x93" + CALL),
    )
    yield (
        "names from the memo, overwritten",
        (
            PROTO4
            + short("collections")
            + b"q\x000"
            + short("os")
            + b"q\x000h\x00"
            + short("system")
            + b"\x93"
            + CALL
        ),
    )
    yield "names by a text memo", b"Vos\np7\n0Vsystem\np8\n0g7\ng8\n\x93" + short(TOUCH) + b"\x85R."
    yield "names by dup", PROTO4 + short("pty") + b"2\x93" + CALL
    yield (
        "names that a call puts together",
        (
            PROTO4
            + new("_codecs", "encode")
            + short("os")
            + short("ascii")
            + b"\x86R"
            + short("system")
            + b"\x93"
            + CALL
        ),
    )
    yield (
        "a name that is added up",
        (
            PROTO4
            + new("operator", "add")
            + short("o")
            + short("s")
            + b"\x86R"
            + short("system")
            + b"\x93"
            + CALL
        ),
    )
    yield (
        "a codec that is no text's",
        (PROTO4 + new("_codecs", "encode") + short("x") + short("zlib_codec") + b"\x86R."),
    )
    yield "eval", PROTO4 + new("builtins", "eval") + CALL
    yield "exec of Python 2", b"c__builtin__\nexec\n(S'x'\ntR."
    yield "getattr", PROTO4 + new("builtins", "getattr") + CALL
    yield "import", PROTO4 + new("builtins", "__import__") + CALL
    yield "a dotted name", PROTO4 + new("collections", "OrderedDict.__init__.__globals__") + CALL
    yield "partial", PROTO4 + new("functools", "partial") + CALL
    yield "runpy", PROTO4 + new("runpy", "_run_code") + CALL
    yield "pip", PROTO4 + new("pip", "main") + CALL
    yield "importlib", PROTO4 + new("importlib", "import_module") + CALL
    yield "asyncio", PROTO4 + new("asyncio.unix_events", "_UnixSubprocessTransport._start") + CALL
    yield "a method caller", PROTO4 + new("operator", "methodcaller") + CALL
    yield "code type", PROTO4 + new("types", "CodeType") + CALL
    yield "marshal", PROTO4 + new("marshal", "loads") + CALL
    yield "a module that nobody has listed", PROTO4 + new("some.library", "harmless") + CALL
    yield "numpy's runstring", PROTO4 + new("numpy.testing._private.utils", "runstring") + CALL
    yield "numpy's load", PROTO4 + new("numpy", "load") + CALL
    yield "torch's load", PROTO4 + new("torch.serialization", "load") + CALL
    yield "torch's load from bytes", PROTO4 + new("torch.storage", "_load_from_bytes") + CALL
    yield "joblib's load", PROTO4 + new("joblib", "load") + CALL
    yield "sklearn's fetcher", PROTO4 + new("sklearn.datasets", "fetch_openml") + CALL
    yield "cloudpickle", PROTO4 + new("cloudpickle.cloudpickle", "_make_function") + CALL
    yield (
        "a pickle within a pickle",
        (PROTO4 + new("_pickle", "loads") + b"C" + bytes([len(SYSTEM)]) + SYSTEM + b"\x85R."),
    )
    yield (
        "a call of what a call gave",
        (PROTO4 + new("collections", "OrderedDict") + b")R" + short(TOUCH) + b"\x85R."),
    )
    yield "extension code", PROTO4 + b"\x82\x01" + CALL
    yield "extension code of four bytes", PROTO4 + b"\x84\x01\x00\x00\x00" + CALL
    yield "persistent id", b"\x80\x02(X\x04\x00\x00\x00evilQ."
    yield "persistent id, protocol 0", b"Pevil\n."
    yield "broken behind the call", SYSTEM[:-1] + b"\xff\xff"
    yield "cut off behind the call", SYSTEM[:-1]
    yield "behind a harmless one", pickle.dumps({"a": 1}) + SYSTEM
    yield "thrown away", PROTO4 + new("os", "system") + short(TOUCH) + b"\x85R0N."
    yield "among the values of a list", PROTO4 + b"](" + new("os", "system") + short(TOUCH) + b"\x85Re."
    yield "imported and not called", PROTO4 + new("antigravity", "geohash") + b"."
    yield "mapped from Python 2", b"\x80\x02ccommands\ngetoutput\n" + long(TOUCH) + b"\x85R."
    yield "a name with a blank", b"cos  system\nsystem\n(S'x'\ntR."
    yield "a lying length", PROTO4 + b"\x8e" + struct.pack("<Q", 1 << 62) + SYSTEM
    yield "out-of-band buffer", b"\x80\x05\x97" + SYSTEM[2:]


def containers() -> Iterator[tuple[str, str, bytes]]:
    """Kind, name and bytes of what holds one, or is harmful by itself."""
    yield "gzip", "m.pkl.gz", gzip.compress(SYSTEM)
    yield "gzip in gzip", "m.gz", gzip.compress(gzip.compress(SYSTEM))
    yield "zlib", "m.joblib", zlib.compress(SYSTEM)
    yield "bzip2", "m.pkl", bz2.compress(SYSTEM)
    yield "xz", "m.pkl", lzma.compress(SYSTEM)
    yield "lzma", "m.pkl", lzma.compress(SYSTEM, lzma.FORMAT_ALONE)
    yield "second member of a gzip", "m.pkl", gzip.compress(pickle.dumps(1)) + gzip.compress(SYSTEM)
    yield "zip", "m.zip", zipped({"a/b.pkl": SYSTEM})
    yield "zip in zip", "m.zip", zipped({"inner.zip": zipped({"x": SYSTEM}, method=zipfile.ZIP_DEFLATED)})
    yield "zip of another name", "m.safetensors", zipped({"data.pkl": SYSTEM})
    yield "tar", "m.tar", tarred({"m.pkl": SYSTEM})
    yield "tar in gzip", "m.tar.gz", tarred({"m.pkl": SYSTEM}, "w:gz")
    yield "a name in a tar that is a pickle", "m.pkl", tarred({"cos\nsystem\n(S'touch PWNED'\ntR.": b""})
    yield "torch", "m.pt", zipped({"archive/data.pkl": SYSTEM, "archive/version": b"3\n"})
    yield "torch, wrong checksum", "m.pt", _wrong_checksum()
    yield "torch, before 1.6", "m.pt", _legacy_torch()
    yield "torch storage", "m.pt", zipped({"a/data.pkl": pickle.dumps({}), "a/data/0": SYSTEM})
    yield (
        "torchscript",
        "m.pt",
        zipped({"a/data.pkl": pickle.dumps({}), "a/code/m.py": b"def forward(): pass\n"}),
    )
    yield "numpy objects", "m.npy", npy(NUMPY_HEADER, SYSTEM)
    yield "numpy objects in npz", "m.npz", zipped({"a.npy": npy(NUMPY_HEADER, SYSTEM)})
    yield "joblib objects", "m.joblib", _joblib_objects()
    yield "joblib read by another loader", "m.pkl", _joblib_polyglot()
    yield "a pickle named as text", "notes.txt", b"cos\nsystem\n(S'touch PWNED'\ntR."
    yield "a pickle named as tensors", "m.safetensors", SYSTEM
    yield "a pickle that begins as GGUF", "m.pkl", b"GGUF\x03\x00\x00\x00\x00" + SYSTEM[2:]
    yield "zip hidden behind tensors", "m.safetensors", _safetensors({}, b"") + zipped({"x.pkl": SYSTEM})
    yield "path traversal", "m.zip", zipped({"../../x.txt": b"x"})
    yield "absolute path", "m.zip", zipped({"/etc/x.txt": b"x"})
    yield "two names", "m.zip", _two_names()
    yield "overlapping entries", "m.zip", _overlapping()
    yield "bytes behind a zip", "m.zip", zipped({"a.txt": b"x"}) + b"more"
    yield "bytes before a zip", "m.zip", zipped({"a.txt": b"x"})[:31] + b"x" + zipped({"a.txt": b"x"})
    yield "bomb", "m.zip", zipped({"a.txt": b"\0" * (64 << 20)}, method=zipfile.ZIP_DEFLATED)
    yield "7z", "m.7z", b"7z\xbc\xaf\x27\x1c" + b"\0" * 64
    yield "program", "m.bin", b"\x7fELF" + b"\0" * 64
    yield "python", "modeling.py", b"import os\n"
    yield "random bytes", "m.bin", bytes(range(255, 128, -1)) * 9
    yield (
        "keras lambda",
        "m.keras",
        zipped(
            {
                "config.json": json.dumps(
                    {"class_name": "Functional", "config": {"layers": [{"class_name": "Lambda"}]}}
                ).encode()
            }
        ),
    )
    yield (
        "keras import",
        "m.keras",
        zipped({"config.json": json.dumps({"class_name": "system", "module": "os", "config": {}}).encode()}),
    )
    yield "keras in hdf5", "m.h5", b"\x89HDF\r\n\x1a\n" + b'\0model_config\0{"class_name": "Lambda"}'
    yield (
        "keras in hdf5, spelled otherwise",
        "m.h5",
        b"\x89HDF\r\n\x1a\n" + b'\0model_config\0{"class_n\\u0061me"}',
    )
    yield (
        "template",
        "tokenizer_config.json",
        json.dumps({"chat_template": "{{ messages.__class__.__mro__ }}"}).encode(),
    )
    yield "template with a made-up name", "chat_template.jinja", b"{{ messages['__cl' ~ 'ass__'] }}"
    yield "template with attr", "chat_template.jinja", b"{{ messages|attr('__class__') }}"
    yield (
        "template with a hidden attr",
        "chat_template.jinja",
        b"{{ [m]|map('attr', '\\x5f\\x5fclass\\x5f\\x5f') }}",
    )
    yield "template with lipsum", "chat_template.jinja", b"{{ lipsum.__globals__['os'].popen('x') }}"
    yield "template that includes", "chat_template.jinja", b"{% include '/etc/passwd' %}"
    yield "template in GGUF", "m.gguf", _gguf("{{ cycler.__init__.__globals__ }}")
    yield "gguf, too many tensors", "m.gguf", b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 0)
    yield "gguf, too long a text", "m.gguf", b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 1 << 60)
    tensor = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    yield "tensors with bytes behind", "m.safetensors", _safetensors({"a": tensor}, b"12345")
    yield "tensors that overlap", "m.safetensors", _safetensors({"a": tensor, "b": tensor}, b"1234")
    yield (
        "tensors with a gap",
        "m.safetensors",
        _safetensors({"a": {**tensor, "data_offsets": [4, 8]}}, b"12345678"),
    )
    yield "tensors of another length", "m.safetensors", _safetensors({"a": {**tensor, "shape": [2]}}, b"1234")
    yield (
        "tensors twice",
        "m.safetensors",
        _safetensors(
            b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}',
            b"1",
        ),
    )
    yield "a header too long", "m.safetensors", struct.pack("<Q", 200_000_000) + b"{}"
    yield "yaml of objects", "config.yaml", b"!!python/object/apply:os.system ['x']\n"
    yield "a secret", "config.json", b'{"aws_key": "AKIAQYLPMN5HHHFPZAM2"}'
    yield "a private key in a notebook", "a.ipynb", b'{"cells": ["-----BEGIN RSA PRIVATE KEY-----"]}'
    yield "code from elsewhere", "config.json", b'{"auto_map": {"AutoModel": "x/y--m.M"}}'
    yield "a text at its beginning alone", "vocabulary", b"words and words\n" * (1 << 21) + b"\xff\xfe"
    yield (
        "a template behind a byte order mark",
        "tokenizer_config.json",
        (b"\xef\xbb\xbf" + json.dumps({"chat_template": "{{ x.__class__ }}"}).encode()),
    )
