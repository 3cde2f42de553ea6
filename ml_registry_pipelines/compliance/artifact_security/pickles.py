"""Reads what a pickle would do, operation by operation, without doing any of it.

A stack machine of symbols follows the operations of protocols 0 to 5 as the interpreter's own
unpickler does (opcodes: `pickletools`), so that names that come by way of the memo, of a duplicate
or of another protocol are seen as what they are. A global counts as known only if both of its names
are literals. Whatever the walk cannot follow to the end is refused: an unpickler acts while it reads,
so that a stream that breaks off has acted already.

Which globals are allowed is in `allowed.py`; where pickles are found, in `containers.py`.
"""

from __future__ import annotations

import io
import pickletools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import IO, Any

from ml_registry_pipelines.compliance.artifact_security.allowed import (
    framework_of,
    is_class_name,
)
from ml_registry_pipelines.compliance.artifact_security.arrays import array_bytes
from ml_registry_pipelines.compliance.artifact_security.findings import readable
from ml_registry_pipelines.compliance.artifact_security.symbols import (
    JOBLIB_ARRAY,
    MARK,
    OPAQUE,
    Broken,
    Global,
    Made,
    Pairs,
    popped_to_mark,
    surely_no_text,
)

LONGEST_NAME = 4_096
"""Bytes of a text that is kept as a literal; no name of a module is longer."""
LONGEST_LINE = 1 << 20
MOST_PAIRS = 256
"""Pairs of a dictionary that are kept: what describes an array has fewer."""
ENCODINGS = {"latin1", "latin-1", "ascii", "utf-8", "utf8"}
HIGHEST_PROTOCOL = 5

_BY_CODE = {op.code: op for op in pickletools.opcodes}
_COUNTED = {
    "SHORT_BINSTRING": "<B",
    "BINSTRING": "<i",
    "SHORT_BINBYTES": "<B",
    "BINBYTES": "<I",
    "BINBYTES8": "<Q",
    "BYTEARRAY8": "<Q",
    "SHORT_BINUNICODE": "<B",
    "BINUNICODE": "<I",
    "BINUNICODE8": "<Q",
}
_NUMBERS = {"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"}
_CONSTANTS: dict[str, Callable[[], object]] = {
    "NONE": lambda: None,
    "NEWTRUE": lambda: True,
    "NEWFALSE": lambda: False,
    "EMPTY_LIST": lambda: OPAQUE,
    "EMPTY_SET": lambda: OPAQUE,
    "EMPTY_DICT": Pairs,
    "EMPTY_TUPLE": lambda: (),
}


@dataclass
class Walked:
    """What one pickle would do.

    Attributes:
        globals: all that it names, by framework; None for those on no list.
        bad: why it is flagged.
        called: it calls something that it may not call.
        broken: why the walk ended before the pickle did.
        storages: elements and type of PyTorch's storages that it refers to.
        value: its result, where that is a literal.
    """

    globals: dict[tuple[str, str], str | None] = field(default_factory=dict)
    bad: list[str] = field(default_factory=list)
    called: bool = False
    broken: str = ""
    storages: dict[str, tuple[str, int]] = field(default_factory=dict)
    value: object = None

    def merge(self, other: Walked) -> None:
        self.globals |= other.globals
        self.bad += [why for why in other.bad if why not in self.bad]
        self.called = self.called or other.called
        self.broken = self.broken or other.broken
        self.storages |= other.storages


def walk(stream: IO[bytes], *, persistent: bool = False, joblib: bool = True) -> Walked:
    """Read one pickle from where the stream stands; afterwards it stands behind its STOP.

    Args:
        stream: seekable.
        persistent: PyTorch's references to storages may occur.
        joblib: follow joblib, which writes the bytes of arrays between the operations. Any other
            unpickler would take those bytes for operations.
    """
    machine = _Machine(stream, persistent=persistent, joblib=joblib)
    try:
        machine.run()
    except Broken as broken:
        machine.seen.broken = f"{broken} (byte {stream.tell():,})"
    except (ValueError, EOFError, struct.error, UnicodeError, OverflowError, IndexError) as failure:
        machine.seen.broken = f"it cannot be read: {readable(failure)} (byte {stream.tell():,})"
    return machine.seen


class _Machine:
    def __init__(self, stream: IO[bytes], *, persistent: bool, joblib: bool) -> None:
        self.stream = stream
        self.persistent = persistent
        self.joblib = joblib
        self.seen = Walked()
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}
        self.lines = _Lines(stream)
        start = stream.tell()
        self.end = stream.seek(0, io.SEEK_END)
        stream.seek(start)

    def run(self) -> None:
        while True:
            code = self.stream.read(1)
            if not code:
                raise Broken("it ends before its last operation")
            op = _BY_CODE.get(code.decode("latin-1"))
            if op is None:
                raise Broken(f"there is no operation 0x{code.hex()}")
            name = op.name
            if name in _COUNTED:
                self.push(self.counted(name))
                continue
            argument = None if op.arg is None else op.arg.reader(self.lines)  # type: ignore[arg-type]
            if name == "STOP":
                self.seen.value = self.pop()
                return
            if name in _NUMBERS:
                self.push(argument)
            elif name in _CONSTANTS:
                self.push(_CONSTANTS[name]())
            else:
                _DOES[name](self, argument)

    # -- stack and memo -----------------------------------------------------------------

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        if not self.stack or self.stack[-1] is MARK:
            raise Broken("it takes from an empty stack")
        return self.stack.pop()

    def top(self) -> object:
        if not self.stack or self.stack[-1] is MARK:
            raise Broken("it looks at an empty stack")
        return self.stack[-1]

    def marked(self) -> list[object]:
        return popped_to_mark(self.stack)

    def counted(self, name: str) -> object:
        """A text or bytes of a given length: short texts as they are, all else unseen and skipped."""
        form = _COUNTED[name]
        length = struct.unpack(form, self.exactly(struct.calcsize(form)))[0]
        if length < 0 or length > self.end - self.stream.tell():
            raise Broken("a text or bytes are longer than the rest of the file")
        if "BYTES" in name or "BYTEARRAY" in name or length > LONGEST_NAME:
            self.stream.seek(length, io.SEEK_CUR)
            return OPAQUE
        data = self.stream.read(length)
        return data.decode(
            "latin-1" if "STRING" in name else "utf-8", "surrogatepass" if "UNI" in name else "strict"
        )

    def exactly(self, count: int) -> bytes:
        data = self.stream.read(count)
        if len(data) != count:
            raise Broken("it ends inside an operation")
        return data

    # -- what operations do -------------------------------------------------------------

    def name_global(self, module: object, name: object) -> Global:
        if surely_no_text(module) or surely_no_text(name) or is_class_name(module):
            raise Broken("it names a global by something that is no name")
        if not isinstance(module, str) or not isinstance(name, str):
            self.flag("it names a global by a computed name, which could be any")
            return Global("?", "?", None)
        framework = framework_of(module, name)
        self.seen.globals[(module, name)] = framework
        if framework is None:
            self.flag(
                f"it names {readable(module)}.{readable(name)}, which is on no list of harmless globals"
            )
        return Global(module, name, framework)

    def flag(self, why: str) -> None:
        if why not in self.seen.bad and len(self.seen.bad) < 100:
            self.seen.bad.append(why)

    def call(self, callee: object, arguments: object) -> None:
        """Push what calling something would give."""
        match callee:
            case Global(framework=None):
                self.seen.called = True
            case Global(module="_codecs", name="encode"):
                given = arguments if isinstance(arguments, tuple) else ()
                if len(given) != 2 or given[1] not in ENCODINGS:
                    self.seen.called = True
                    self.flag("it encodes by a codec that is no plain text encoding")
            case Global():
                pass
            case _:
                self.seen.called = True
                self.flag("it calls an object that it has computed")
        self.push(Made(callee, arguments))

    def refer(self, reference: object) -> None:
        """Push what a persistent id stands for."""
        if not self.persistent:
            raise Broken("it refers to an object outside the file by a persistent id")
        match reference:
            case ("storage", Global(module=module, name=name), str(key), _, int(count), *_) if module in {
                "torch",
                "torch.storage",
            }:
                self.seen.storages[key] = (name, count)
                self.push(OPAQUE)
            case _:
                raise Broken("a persistent id is no reference to a storage of PyTorch")

    def stack_global(self, _: Any) -> None:
        name, module = self.pop(), self.pop()
        self.push(self.name_global(module, name))

    def global_(self, argument: Any) -> None:
        self.push(self.name_global(*_two(argument)))

    def inst(self, argument: Any) -> None:
        arguments = tuple(self.marked())
        self.call(self.name_global(*_two(argument)), arguments)

    def obj(self, _: Any) -> None:
        callee, *arguments = self.marked() or [OPAQUE]
        self.call(callee, tuple(arguments))

    def reduce(self, _: Any) -> None:
        arguments, callee = self.pop(), self.pop()
        self.call(callee, arguments)

    def newobj_ex(self, _: Any) -> None:
        self.pop()
        arguments, callee = self.pop(), self.pop()
        self.call(callee, arguments)

    def build(self, _: Any) -> None:
        state, target = self.pop(), self.top()
        match target:
            case Global():
                self.seen.called = True
                self.flag(f"it changes {readable(target.module)}.{readable(target.name)} itself")
            case Made():
                target.state = state
                if self.joblib and isinstance(target.callee, Global) and target.callee.pair == JOBLIB_ARRAY:
                    self.read_array(target)
            case _ if target is not OPAQUE:
                raise Broken("it sets the state of something that has none")

    def read_array(self, wrapper: Made) -> None:
        """Step over the bytes of an array, as joblib does when it has built the description of one."""
        count = array_bytes(wrapper)
        if count is None:
            inner = walk(self.stream, joblib=True)
            self.seen.merge(inner)
            if inner.broken:
                raise Broken(f"an array of objects in it: {inner.broken}")
        else:
            if (
                isinstance(wrapper.state, Pairs)
                and wrapper.state.get("numpy_array_alignment_bytes") is not None
            ):
                self.exactly(self.exactly(1)[0])
            if count > self.end - self.stream.tell():
                raise Broken("an array is longer than the rest of the file")
            self.stream.seek(count, io.SEEK_CUR)
        self.stack[-1] = OPAQUE

    def put(self, argument: Any) -> None:
        if argument is None:
            argument = len(self.memo)
        if not isinstance(argument, int) or argument < 0:
            raise Broken("it keeps something under a number that is none")
        self.memo[argument] = self.top()

    def get(self, argument: Any) -> None:
        if argument not in self.memo:
            raise Broken("it asks for something that it has not kept")
        self.push(self.memo[argument])

    def set_items(self, given: Sequence[object]) -> None:
        target = self.top()
        if len(given) % 2:
            raise Broken("a key has no value")
        if isinstance(target, Pairs):
            for key, value in zip(given[::2], given[1::2], strict=True):
                if isinstance(key, str) and len(target) < MOST_PAIRS:
                    target[key] = value

    def pair(self, _: Any) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def dict_(self, _: Any) -> None:
        given = self.marked()
        self.push(Pairs())
        self.set_items(given)

    def tuple_(self, count: int | None) -> None:
        items = self.marked() if count is None else [self.pop() for _ in range(count)][::-1]
        # Only what is looked at later has to be kept.
        self.push(tuple(items) if len(items) <= MOST_PAIRS else OPAQUE)

    def drop(self, _: Any) -> None:
        if not self.stack:
            raise Broken("it takes from an empty stack")
        self.stack.pop()

    def proto(self, argument: Any) -> None:
        if argument > HIGHEST_PROTOCOL:
            raise Broken(f"its protocol {argument} is not known")

    def extension(self, argument: Any) -> None:
        self.flag(f"it names a global by extension code {argument}, which the file does not explain")
        self.push(Global("?", "?", None))

    def buffer(self, _: Any) -> None:
        raise Broken("it wants a buffer from outside the file")

    def string(self, argument: Any) -> None:
        self.push(argument if len(argument) <= LONGEST_NAME else OPAQUE)

    def replaced(self, opaque: int, _: Any) -> None:
        """Take some values and give one that is not looked at."""
        for _index in range(opaque):
            self.pop()
        self.push(OPAQUE)


class _Lines:
    """A stream whose lines are bounded, since a text that never ends would fill the memory."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.read = stream.read
        self._stream = stream

    def readline(self) -> bytes:
        return self._stream.readline(LONGEST_LINE)


def _two(argument: Any) -> tuple[str, str]:
    """Module and name, which the reader gives with a blank between them."""
    module, blank, name = str(argument).partition(" ")
    if not blank or " " in name:
        return "?", str(argument)
    return module, name


def _append(machine: _Machine, _: Any) -> None:
    machine.pop()
    machine.top()


def _drop_marked(machine: _Machine, _: Any) -> None:
    machine.marked()


def _append_all(machine: _Machine, _: Any) -> None:
    machine.marked()
    machine.top()


def _set_all(machine: _Machine, _: Any) -> None:
    machine.set_items(machine.marked())


def _marked_as_one(machine: _Machine, _: Any) -> None:
    machine.marked()
    machine.push(OPAQUE)


_DOES: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": lambda m, _: m.push(MARK),
    "POP": _Machine.drop,
    "POP_MARK": _drop_marked,
    "DUP": lambda m, _: m.push(m.top()),
    "PERSID": lambda m, a: m.refer(a),
    "BINPERSID": lambda m, _: m.refer(m.pop()),
    "REDUCE": _Machine.reduce,
    "STRING": _Machine.string,
    "UNICODE": _Machine.string,
    "APPEND": _append,
    "APPENDS": _append_all,
    "ADDITEMS": _append_all,
    "BUILD": _Machine.build,
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "DICT": _Machine.dict_,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "INST": _Machine.inst,
    "LIST": _marked_as_one,
    "FROZENSET": _marked_as_one,
    "OBJ": _Machine.obj,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.put,
    "SETITEM": _Machine.pair,
    "SETITEMS": _set_all,
    "TUPLE": lambda m, _: m.tuple_(None),
    "TUPLE1": lambda m, _: m.tuple_(1),
    "TUPLE2": lambda m, _: m.tuple_(2),
    "TUPLE3": lambda m, _: m.tuple_(3),
    "PROTO": _Machine.proto,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.newobj_ex,
    "EXT1": _Machine.extension,
    "EXT2": _Machine.extension,
    "EXT4": _Machine.extension,
    "FRAME": lambda _m, _a: None,
    "NEXT_BUFFER": _Machine.buffer,
    "READONLY_BUFFER": _Machine.buffer,
}
