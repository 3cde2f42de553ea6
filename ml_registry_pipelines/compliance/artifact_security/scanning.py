"""Looks at one file: what it is, what is packed inside it, and what each part would do.

Runs in the child process (`child.py`). A file is taken for what its bytes say, not for what its name
says; and because a loader may go by the name, every file is also read as the pickle that it might be.
What cannot be told is refused.
"""

from __future__ import annotations

import codecs
import re
from pathlib import Path, PurePosixPath
from typing import IO

from ml_registry_pipelines.compliance.artifact_security import graphs, texts
from ml_registry_pipelines.compliance.artifact_security.allowed import STORAGE_BYTES
from ml_registry_pipelines.compliance.artifact_security.archives import (
    is_zip_at_end,
    tar_entries,
    zip_entries,
)
from ml_registry_pipelines.compliance.artifact_security.arrays import NPY, npy_header
from ml_registry_pipelines.compliance.artifact_security.findings import Check, FileVerdict, Finding, readable
from ml_registry_pipelines.compliance.artifact_security.headers import (
    check_gguf,
    check_safetensors,
    json_object,
)
from ml_registry_pipelines.compliance.artifact_security.pickles import Walked, walk
from ml_registry_pipelines.compliance.artifact_security.reading import (
    PIECE,
    Bomb,
    Budget,
    size_of,
    unpacked,
)
from ml_registry_pipelines.compliance.artifact_security.symbols import Broken
from ml_registry_pipelines.compliance.artifact_security.templates import check_template

DEEPEST = 5
"""Archives within archives."""
MOST_FINDINGS = 200
SECOND_OPINION_TO = 64 << 20
"""Bytes of a file up to which picklescan looks at it too: it keeps all operations in memory."""
MOST_WHOLE = 256 << 20
"""Bytes of a text or HDF5 file that is read at once."""
PICKLE_NAMES = {
    ".pkl",
    ".pickle",
    ".joblib",
    ".sav",
    ".pt",
    ".pth",
    ".ckpt",
    ".dat",
    ".data",
    ".p",
    ".model",
    ".bin",
}
_CONFIGS = {
    ".json",
    ".yaml",
    ".yml",
    ".toml",
    ".ini",
    ".cfg",
    ".conf",
    ".env",
    ".ipynb",
    ".properties",
    ".xml",
}
_PROGRAMS = {
    ".py",
    ".pyc",
    ".pyd",
    ".so",
    ".dll",
    ".dylib",
    ".exe",
    ".sh",
    ".bat",
    ".ps1",
    ".js",
    ".jar",
    ".class",
}
_NATIVE = (
    b"\x7fELF",
    b"MZ",
    b"\xfe\xed\xfa",
    b"\xcf\xfa\xed\xfe",
    b"\xce\xfa\xed\xfe",
    b"\xca\xfe\xba\xbe",
    b"#!",
)
_UNREAD = {
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\x04\x22\x4d\x18": "lz4",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"ZF": "joblib before 0.10",
}
_PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ\x00": "xz", b"]\x00\x00": "lzma"}
_STORAGE = re.compile(r"(.*/)?data/\d+")
_LEGACY = 0x1950A86A20F9469CFC6C
"""What PyTorch before 1.6 wrote first."""


class Scan:
    """The scan of one file, with all that is inside it."""

    def __init__(self) -> None:
        self.findings: list[Finding] = []
        self.formats: dict[str, None] = {}
        self.notes: list[str] = []
        self.budget = Budget()

    def file(self, path: Path, name: str) -> None:
        """Look at a file of this machine by the name that it has in its artifact."""
        with path.open("rb") as stream:
            self.look(stream, name, "", 0)
        if path.stat().st_size <= SECOND_OPINION_TO and self.formats.keys() & {
            "pickle",
            "zip",
            "numpy",
            "unknown",
        }:
            self.second_opinion(path)

    # -- saying -------------------------------------------------------------------------

    def say(self, check: Check, verdict: FileVerdict, what: str, where: str) -> None:
        finding = Finding(check, verdict, what, readable(where))
        if finding not in self.findings and len(self.findings) < MOST_FINDINGS:
            self.findings.append(finding)

    def flag(self, check: Check, what: str, where: str) -> None:
        self.say(check, FileVerdict.FLAGGED, what, where)

    def refuse(self, check: Check, what: object, where: str) -> None:
        self.say(check, FileVerdict.REFUSED, str(what), where)

    # -- what it is ---------------------------------------------------------------------

    def look(self, stream: IO[bytes], name: str, where: str, depth: int) -> None:
        """Look at a file, or at one inside it: `where` is its place there."""
        if depth > DEEPEST:
            self.refuse(Check.ARCHIVE, f"archives are nested more than {DEEPEST} deep", where)
            return
        size = size_of(stream)
        head = stream.read(512)
        stream.seek(0)
        form = recognised(head, size, name)
        self.formats[form] = None
        check = _CHECKS.get(form, Check.FORMAT)
        try:
            getattr(self, f"_{_LOOKS.get(form, form)}")(stream, name, where, depth)
        except Bomb as bomb:
            self.flag(Check.ARCHIVE, str(bomb), where)
        except Broken as broken:
            self.refuse(check, broken, where)
        if form != "pickle":
            self.as_pickle(stream, where)
        if form not in {"zip", "empty"} and is_zip_at_end(stream):
            self.flag(Check.ARCHIVE, "a zip archive is hidden at its end", where)

    def as_pickle(self, stream: IO[bytes], where: str) -> None:
        """What would happen if a loader went by the name and took the file for a pickle."""
        for joblib in (False, True):
            stream.seek(0)
            seen = walk(stream, joblib=joblib)
            for why in seen.bad if seen.called else ():
                self.flag(Check.PICKLE, f"read as a pickle, {why}", where)

    def second_opinion(self, path: Path) -> None:
        """What picklescan's list of dangerous globals says. It adds to the verdict and takes nothing back."""
        from picklescan.scanner import SafetyLevel, scan_file_path  # type: ignore[import-untyped]

        try:
            result = scan_file_path(str(path))
        except Exception as failure:  # noqa: BLE001 - it raises what it likes, and may not decide by it
            self.notes.append(f"no second opinion: picklescan gave up ({type(failure).__name__})")
            return
        for found in result.globals:
            if found.safety is SafetyLevel.Dangerous:
                what = f"picklescan calls {readable(found.module)}.{readable(found.name)} dangerous"
                self.flag(Check.PICKLE, what, "")

    # -- pickles and arrays --------------------------------------------------------------

    def _pickle(self, stream: IO[bytes], _name: str, where: str, _depth: int, *, torch: bool = False) -> None:
        size = size_of(stream)
        seen = walk(stream, persistent=torch)
        self.tell(seen, where)
        if seen.value == _LEGACY and not seen.broken:
            self.legacy_torch(stream, size, where)
            return
        while not seen.broken and stream.tell() < size:
            seen = walk(stream, persistent=torch)
            if seen.broken:
                seen.broken = "something other than another pickle follows behind its end"
            self.tell(seen, where)
        if ("joblib.numpy_pickle", "NumpyArrayWrapper") in seen.globals:
            self.formats["joblib"] = None
            self.as_pickle(stream, where)

    def legacy_torch(self, stream: IO[bytes], size: int, where: str) -> None:
        """Four more pickles, then the bytes of each storage with the number of its elements before them."""
        self.formats["pytorch-legacy"] = None
        storages: dict[str, tuple[str, int]] = {}
        for _ in range(4):
            seen = walk(stream, persistent=True)
            self.tell(seen, where)
            if seen.broken:
                return
            storages |= seen.storages
        total = 0
        for kind, count in storages.values():
            if kind not in STORAGE_BYTES or count < 0:
                raise Broken("a storage has no known type")
            total += 8 + count * STORAGE_BYTES[kind]
        if size - stream.tell() != total:
            raise Broken("what follows the pickles is not as long as the storages that they refer to")

    def tell(self, seen: Walked, where: str) -> None:
        for framework in seen.globals.values():
            if framework not in {None, "python"}:
                self.formats[str(framework)] = None
        for why in seen.bad:
            self.flag(Check.PICKLE, why, where)
        if seen.broken:
            self.refuse(Check.PICKLE, f"the pickle cannot be followed to its end: {seen.broken}", where)

    def _numpy(self, stream: IO[bytes], _name: str, where: str, _depth: int) -> None:
        size = size_of(stream)
        shape, item = npy_header(stream)
        if item is None:
            self.formats["pickle"] = None
            seen = walk(stream, joblib=False)
            self.tell(seen, where)
            if not seen.broken and stream.tell() != size:
                raise Broken("something follows behind the pickle of the array")
            return
        count = item
        for n in shape:
            count *= n
        if size - stream.tell() != count:
            raise Broken("the array is not as long as its header says")

    # -- archives ------------------------------------------------------------------------

    def _zip(self, stream: IO[bytes], name: str, where: str, depth: int) -> None:
        def anomaly(what: str) -> None:
            self.flag(Check.ARCHIVE, what, where)

        inside = []
        torch = False
        for entry, content in zip_entries(stream, self.budget, anomaly):
            inside.append(entry)
            place = f"{where}/{entry}" if where else entry
            if entry.endswith("/"):
                continue
            if PurePosixPath(entry).name == "data.pkl":
                torch = True
                self.formats["pytorch"] = None
                self._pickle(content, entry, place, depth, torch=True)
                self.formats["pickle"] = None
            elif torch and _STORAGE.fullmatch(entry):
                self.as_pickle(content, place)
            else:
                self.look(content, entry, place, depth + 1)
        if any("/code/" in f"/{entry}" for entry in inside) and torch:
            self.formats["torchscript"] = None
            self.flag(Check.CODE, "it holds TorchScript, code that runs when the model does", where)
        if name.endswith(".keras") and "config.json" not in inside:
            raise Broken("a .keras archive without config.json")

    def _tar(self, stream: IO[bytes], _name: str, where: str, depth: int) -> None:
        for entry, content in tar_entries(stream, lambda what: self.flag(Check.ARCHIVE, what, where)):
            self.look(content, entry, f"{where}/{entry}" if where else entry, depth + 1)

    def _packed(self, stream: IO[bytes], name: str, where: str, depth: int) -> None:
        form = recognised(stream.read(512), size_of(stream), name)
        stream.seek(0)
        content, behind = unpacked(stream, form, self.budget, packed_size=size_of(stream))
        if behind:
            self.flag(Check.ARCHIVE, f"{behind:,} bytes follow behind what is packed in it", where)
        self.look(content, _unpacked_name(name), f"{where}/{form}" if where else form, depth + 1)

    def _unread(self, _stream: IO[bytes], _name: str, where: str, _depth: int) -> None:
        self.refuse(Check.ARCHIVE, "archives of this kind are not opened here; unpack it", where)

    # -- tensors and graphs --------------------------------------------------------------

    def _safetensors(self, stream: IO[bytes], _name: str, _where: str, _depth: int) -> None:
        check_safetensors(stream)

    def _gguf(self, stream: IO[bytes], _name: str, where: str, _depth: int) -> None:
        check_gguf(stream, lambda text: self.template(text, where))

    def _onnx(self, stream: IO[bytes], _name: str, where: str, _depth: int) -> None:
        if size_of(stream) > graphs.MOST_ONNX:
            raise Broken("an ONNX model has less than 2 GB; keep its tensors in another file")
        graphs.check_onnx(
            stream.read(),
            custom=lambda what: self.flag(Check.CODE, what, where),
            external=lambda what: self.flag(Check.EXTERNAL, what, where),
            refers=lambda what: self.note(f"external data: {readable(what)}"),
        )

    def _hdf5(self, stream: IO[bytes], _name: str, where: str, _depth: int) -> None:
        """Weights alone are numbers. A model has a configuration, which no reader here can find for certain."""
        if size_of(stream) > MOST_WHOLE:
            raise Broken("an HDF5 file of this size is not read here; use safetensors or .keras")
        data = stream.read()
        if re.search(rb'"class_name"\s*:\s*"(Lambda|TorchModuleWrapper)"', data):
            self.flag(Check.CODE, "the Keras model has a layer that runs code of the file", where)
        if b"model_config" in data or b"class_name" in data:
            self.refuse(
                Check.CODE, "a Keras model in HDF5 cannot be read for certain; save it as .keras", where
            )

    # -- texts -----------------------------------------------------------------------------

    def _text(self, stream: IO[bytes], name: str, where: str, _depth: int) -> None:
        size, suffix, base = size_of(stream), _suffix(name), PurePosixPath(name).name.lower()
        config = suffix in _CONFIGS or base.startswith((".env", "config", "settings"))
        text = _whole_text(stream, keep=size <= texts.MOST_TEXT)
        if size > texts.MOST_TEXT:
            if config:
                self.refuse(Check.SECRETS, "the text is too long to be searched for secrets", where)
            return
        for kind, line in texts.secrets(text, name) if config or suffix in {"", ".txt", ".md"} else ():
            self.flag(Check.SECRETS, f"{kind} in line {line:,}", where)
        if suffix in {".yaml", ".yml"} or base == "mlmodel":
            if texts.builds_objects(text):
                self.flag(Check.CODE, "the YAML makes objects of Python", where)
        elif suffix in {".jinja", ".j2"}:
            self.template(text, where)
        elif suffix == ".json":
            self._json(text.encode(), base, where)

    def _json(self, data: bytes, base: str, where: str) -> None:
        if not data.lstrip().startswith(b"{"):
            return
        given = json_object(data)
        if base == "config.json" and "class_name" in given:
            self.formats["keras"] = None
            texts.keras_code(given, lambda what: self.flag(Check.CODE, what, where))
        if "auto_map" in given:
            self.flag(Check.CODE, "auto_map makes a loader fetch and run code", where)
        templates = given.get("chat_template")
        listed = templates if isinstance(templates, list) else [templates]
        for template in listed:
            text = template.get("template") if isinstance(template, dict) else template
            if isinstance(text, str):
                self.template(text, where)
            elif text is not None:
                self.refuse(Check.TEMPLATE, "the chat template is no text", where)

    def template(self, text: str, where: str) -> None:
        self.formats["chat-template"] = None
        try:
            check_template(text, lambda what: self.flag(Check.TEMPLATE, what, where))
        except Broken as broken:
            self.refuse(Check.TEMPLATE, broken, where)

    # -- the rest --------------------------------------------------------------------------

    def _program(self, _stream: IO[bytes], _name: str, where: str, _depth: int) -> None:
        self.flag(Check.CODE, "it is a program, which a loader may run", where)

    def _empty(self, _stream: IO[bytes], _name: str, _where: str, _depth: int) -> None:
        """Nothing is in it."""

    def _unknown(self, stream: IO[bytes], name: str, where: str, _depth: int) -> None:
        """Where the name says pickle, read it as one; a reason that it gives is better than none."""
        if _suffix(name) in PICKLE_NAMES:
            self.formats["pickle"] = None
            stream.seek(0)
            self.tell(walk(stream), where)
        self.refuse(Check.FORMAT, "its format is not known, so that nobody can say what it does", where)

    def note(self, text: str) -> None:
        if text not in self.notes and len(self.notes) < MOST_FINDINGS:
            self.notes.append(text)


_LOOKS = {
    **dict.fromkeys(("gzip", "bzip2", "xz", "lzma", "zlib"), "packed"),
    **dict.fromkeys(_UNREAD.values(), "unread"),
}
_CHECKS = {
    **dict.fromkeys(("zip", "tar", *_LOOKS), Check.ARCHIVE),
    "pickle": Check.PICKLE,
    "gguf": Check.GGUF,
}


def recognised(head: bytes, size: int, name: str) -> str:  # noqa: C901 - one form after the other
    """The format of a file by its first bytes; by its name only where those may be anything."""
    suffix = _suffix(name)
    if size == 0:
        return "empty"
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return "zip"
    for magic, form in (*_UNREAD.items(), *_PACKED.items()):
        if head.startswith(magic):
            return form
    if head.startswith(b"\x80") and len(head) > 1 and head[1] <= 5:
        return "pickle"
    for magic, form in ((NPY, "numpy"), (b"\x89HDF\r\n\x1a\n", "hdf5"), (b"GGUF", "gguf")):
        if head.startswith(magic):
            return form
    if head[257:262] == b"ustar":
        return "tar"
    if head.startswith(_NATIVE) or suffix in _PROGRAMS:
        return "program"
    if suffix == ".safetensors" or (len(head) > 8 and head[8:9] == b"{" and head[3:8] == b"\0" * 5):
        return "safetensors"
    if suffix == ".onnx":
        return "onnx"
    if (
        suffix in PICKLE_NAMES
        and head[:1] == b"\x78"
        and len(head) > 1
        and (head[0] * 256 + head[1]) % 31 == 0
    ):
        return "zlib"
    if suffix == ".z":
        return "zlib"
    if suffix in PICKLE_NAMES:
        return _old_pickle(head)
    return "text" if _is_text(head) else _old_pickle(head)


def _old_pickle(head: bytes) -> str:
    """Protocols 0 and 1 begin with no mark of their own: with an operation that makes or names something."""
    return "pickle" if head[:1] in b"(]}lcdiIFLSVNGKMJTUX" else "unknown"


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8")
    except UnicodeDecodeError as failure:
        if len(head) < 512 or failure.start < len(head) - 4:
            return False
        text = head[: failure.start].decode("utf-8")
    return not any(ord(c) < 32 and c not in "\t\n\r\f\x1b" for c in text)


def _whole_text(stream: IO[bytes], *, keep: bool) -> str:
    """The text, or nothing of one that is only looked through.

    Raises:
        Broken: it is one at its beginning alone.
    """
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    kept = []
    try:
        while piece := stream.read(PIECE):
            text = decoder.decode(piece)
            if keep:
                kept.append(text)
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise Broken(f"it begins as a text and is none before byte {stream.tell():,}") from None
    return "".join(kept)


def _suffix(name: str) -> str:
    base = PurePosixPath(name).name.lower()
    return PurePosixPath(base).suffix if not base.startswith(".env") else ".env"


def _unpacked_name(name: str) -> str:
    """`model.pkl.gz` holds `model.pkl`; what is packed under the name of a pickle is one."""
    path = PurePosixPath(name)
    return (
        str(path.with_suffix(""))
        if path.suffix.lower() in {".gz", ".bz2", ".xz", ".lzma", ".z", ".tgz"}
        else name
    )
