"""A pickle of tensors, read by an interpreter of its own that executes nothing.

It knows the opcodes that torch.save writes and builds plain values. A global is a name, never imported; "calling" one
is possible for the handful below, which describe tensors. Anything else is refused by its name.
"""

from __future__ import annotations

from struct import Struct
from typing import Any, Final, NamedTuple

from tonnage.errors import InputError, UnsupportedError

MOST = 3_000_000
"""Opcodes of one pickle: some 35 describe a tensor."""
LONGEST: Final = 2**20
"""Of a text. [byte]"""
LONGEST_KEY: Final = 4096

STORAGES: Final = {
    "FloatStorage": "fp32",
    "HalfStorage": "fp16",
    "BFloat16Storage": "bf16",
    "DoubleStorage": "fp64",
    "LongStorage": "int64",
    "IntStorage": "int32",
    "ShortStorage": "int16",
    "CharStorage": "int8",
    "ByteStorage": "uint8",
    "BoolStorage": "bool",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "UntypedStorage": "uint8",
}
DTYPES: Final = {
    "float32": "fp32",
    "float16": "fp16",
    "bfloat16": "bf16",
    "float64": "fp64",
    "int64": "int64",
    "int32": "int32",
    "int16": "int16",
    "int8": "int8",
    "uint8": "uint8",
    "uint16": "uint16",
    "uint32": "uint32",
    "uint64": "uint64",
    "bool": "bool",
    "complex64": "complex64",
    "complex128": "complex128",
    "float8_e4m3fn": "fp8_e4m3",
    "float8_e5m2": "fp8_e5m2",
    "float8_e4m3fnuz": "fp8_e4m3fnuz",
    "float8_e5m2fnuz": "fp8_e5m2fnuz",
    "float8_e8m0fnu": "fp8_e8m0",
}
_CALLED: Final = frozenset(
    [
        "collections.OrderedDict",
        "torch.Size",
        "torch._utils._rebuild_parameter",
        "torch._utils._rebuild_tensor",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_tensor_v3",
        "torch.device",
    ]
)


class Global(NamedTuple):
    """A name that the pickle would import."""

    name: str


class Storage(NamedTuple):
    """Bytes of the archive.

    Args:
        key: name of its file.
        format: of its elements.
        numel: elements.
    """

    key: str
    format: str
    numel: int


class View(NamedTuple):
    """A tensor: a part of a storage."""

    storage: Storage
    format: str
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]


_MARK: Final = object()
_NUMBERS: Final = {
    b"J": Struct("<i"),
    b"K": Struct("<B"),
    b"M": Struct("<H"),
    b"G": Struct(">d"),
}
_TEXTS: Final = {b"X": 4, b"\x8c": 1, b"\x8d": 8, b"T": 4, b"U": 1, b"B": 4, b"C": 1, b"\x8e": 8}
_RECALLED: Final = {ord("h"): 1, ord("j"): 4}
_CONSTANTS: Final = {b"N": None, b"\x88": True, b"\x89": False}


class Interpreter:
    """Reads one pickle.

    Args:
        data: the pickle.
        file: for messages.
    """

    key = "model"
    """For messages."""
    most = MOST

    def __init__(self, data: bytes, file: str) -> None:
        self.data = data
        self.file = file
        self.at = 0
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def fail(self, what: str) -> InputError:
        """What is wrong, with its offset in the pickle."""
        return InputError(f"{what} at byte {self.at:,} of the pickle", key=self.key, file=self.file)

    def refuse(self, name: str) -> UnsupportedError:
        """A name that is none of tensors and storages."""
        return UnsupportedError(
            f"the pickle names {name[:120]!r}, which is no tensor: nothing of it is run",
            key="model", value=name[:120], file=self.file,
            hint="save the weights alone, best as safetensors",
        )  # fmt: skip

    def take(self, length: int) -> bytes:
        """The next bytes."""
        if length > len(self.data) - self.at:
            raise self.fail(f"truncated: {length:,} bytes expected")
        found = self.data[self.at : self.at + length]
        self.at += length
        return found

    def line(self) -> str:
        """Up to the end of a line."""
        end = self.data.find(b"\n", self.at, self.at + 4096)
        if end < 0:
            raise self.fail("a line without end")
        found = self.data[self.at : end].decode("utf-8", "replace")
        self.at = end + 1
        return found

    def pop(self) -> Any:
        """The top of the stack."""
        if not self.stack:
            raise self.fail("the stack is empty")
        return self.stack.pop()

    def marked(self) -> list[Any]:
        """What lies above the last mark."""
        for i in range(len(self.stack) - 1, -1, -1):
            if self.stack[i] is _MARK:
                found = self.stack[i + 1 :]
                del self.stack[i:]
                return found
        raise self.fail("no mark is on the stack")

    def run(self) -> Any:
        """The value of the pickle.

        Raises:
            InputError: no pickle, or one that contradicts itself.
            UnsupportedError: it names something else than tensors, or uses an opcode that torch does not write.
        """
        data, size, push = self.data, len(self.data), self.stack.append
        for _ in range(self.most):
            width = _RECALLED.get(data[self.at]) if self.at < size else None
            # Most of a large pickle is what was remembered before: it goes past the chain of `step`.
            if width is not None and self.at + width < size:
                at = self.at + 1
                self.at = at + width
                push(self.get(int.from_bytes(data[at : self.at], "little")))
                continue
            op = self.take(1)
            if op == b".":
                return self.pop()
            self.step(op)
        raise self.fail(f"more than {self.most:,} opcodes")

    def step(self, op: bytes) -> None:
        """One opcode."""
        push = self.stack.append
        if op in _CONSTANTS:
            push(_CONSTANTS[op])
        elif op in _NUMBERS:
            form = _NUMBERS[op]
            push(form.unpack(self.take(form.size))[0])
        elif op in _TEXTS:
            push(self.text(op))
        elif op == b"q":
            self.put(self.take(1)[0])
        elif op == b"r":
            self.put(int.from_bytes(self.take(4), "little"))
        elif op == b"\x94":
            self.put(len(self.memo))
        elif op in b"hj":
            push(self.get(int.from_bytes(self.take(_RECALLED[ord(op)]), "little")))
        elif op == b"(":
            push(_MARK)
        elif op == b"t":
            push(tuple(self.marked()))
        elif op == b")":
            push(())
        elif op in b"\x85\x86\x87":
            push(tuple(reversed([self.pop() for _ in range(op[0] - 0x84)])))
        elif op == b"}":
            push({})
        elif op == b"]":
            push([])
        elif op == b"u":
            self.fill(self.marked())
        elif op == b"s":
            value, key = self.pop(), self.pop()
            self.fill([key, value])
        elif op in b"ea":
            self.extend(self.marked() if op == b"e" else [self.pop()])
        elif op == b"c":
            push(self.named(f"{self.line()}.{self.line()}"))
        elif op == b"\x93":
            name, module = self.pop(), self.pop()
            if not isinstance(name, str) or not isinstance(module, str):
                raise self.fail("a global whose name is no text")
            push(self.named(f"{module}.{name}"))
        elif op == b"R":
            arguments, function = self.pop(), self.pop()
            push(self.called(function, arguments))
        elif op == b"Q":
            push(self.persistent(self.pop()))
        elif op == b"b":
            self.pop()  # What is set on a mapping beside its entries: torch's notes on versions of modules.
        elif op == b"\x8a":
            push(self.long(self.take(1)[0]))
        elif op == b"\x80":
            self.take(1)
        elif op == b"\x95":
            self.take(8)
        elif op == b"0":
            self.pop()
        else:
            self.at -= 1
            raise UnsupportedError(
                f"the opcode {op!r} at byte {self.at:,} of the pickle is none that torch.save writes for tensors",
                key=self.key, file=self.file,
            )  # fmt: skip

    def text(self, op: bytes) -> str | bytes:
        """A text; bytes stay bytes."""
        length = int.from_bytes(self.take(_TEXTS[op]), "little")
        if length > LONGEST:
            raise self.fail(f"a text of {length:,} bytes: more than {LONGEST:,}")
        raw = self.take(length)
        if op in b"BC\x8e":
            return raw
        return raw.decode("utf-8", "replace")

    def long(self, length: int) -> int:
        """A whole number of at most eight bytes."""
        if length > 9:
            raise self.fail(f"a number of {length} bytes")
        return int.from_bytes(self.take(length), "little", signed=True)

    def put(self, key: int) -> None:
        """Remember the top of the stack."""
        if not self.stack:
            raise self.fail("the stack is empty")
        self.memo[key] = self.stack[-1]

    def get(self, key: int) -> Any:
        """What was remembered."""
        if key not in self.memo:
            raise self.fail(f"nothing is remembered under {key}")
        return self.memo[key]

    def fill(self, pairs: list[Any]) -> None:
        """Put keys and values into the mapping on the stack."""
        target = self.stack[-1] if self.stack else None
        if not isinstance(target, dict) or len(pairs) % 2:
            raise self.fail("keys and values for something that is no mapping")
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if not isinstance(key, str | int | float | bool | bytes | None):
                raise self.fail("a key that is no text and no number")
            if isinstance(key, str) and len(key) > LONGEST_KEY:
                raise self.fail(f"a key of {len(key):,} characters: more than {LONGEST_KEY:,}")
            target[key] = value

    def extend(self, values: list[Any]) -> None:
        """Put values into the list on the stack."""
        target = self.stack[-1] if self.stack else None
        if not isinstance(target, list):
            raise self.fail("values for something that is no list")
        target.extend(values)

    def named(self, name: str) -> Any:
        """A global of which tensors are made."""
        module, _, last = name.rpartition(".")
        if module in ("torch", "torch.storage") and last in STORAGES:
            return Global(name)
        if module == "torch" and last in DTYPES:
            return Global(name)
        if name in _CALLED:
            return Global(name)
        raise self.refuse(name)

    def called(self, function: Any, arguments: Any) -> Any:
        """What a call would give, as far as it describes a tensor."""
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise self.fail("a call of something that is no global")
        name = function.name.rpartition(".")[2]
        if name == "OrderedDict" and arguments == ():
            return {}
        if name == "Size" and len(arguments) == 1 and isinstance(arguments[0], tuple | list):
            return tuple(arguments[0])
        if name == "device":
            return None
        if name == "_rebuild_parameter" and arguments and isinstance(arguments[0], View):
            return arguments[0]
        if name in ("_rebuild_tensor", "_rebuild_tensor_v2", "_rebuild_tensor_v3") and len(arguments) >= 4:
            return self.view(name, arguments)
        raise self.refuse(f"{function.name} called with {len(arguments)} arguments")

    def view(self, name: str, arguments: tuple[Any, ...]) -> View:
        """A tensor of a storage, inside its bounds."""
        storage, offset, shape, stride = arguments[:4]
        if not isinstance(storage, Storage) or not _counts((offset,)) or not _counts(shape) or not _counts(stride):
            raise self.fail("a tensor whose storage, offset, shape or stride is none")
        form = storage.format
        if name.endswith("v3"):
            dtype = arguments[6] if len(arguments) > 6 else None
            found = DTYPES.get(dtype.name.rpartition(".")[2]) if isinstance(dtype, Global) else None
            if found is None:
                raise self.fail("a tensor without a dtype")
            form = found
        if len(shape) != len(stride) or len(shape) > 64:
            raise self.fail(f"a tensor of {len(shape)} dimensions with {len(stride)} strides")
        return View(storage, form, offset, tuple(shape), tuple(stride))

    def persistent(self, told: Any) -> Storage:
        """The storage that a persistent id describes: ('storage', type, key, location, elements)."""
        if not isinstance(told, tuple) or len(told) < 5 or told[0] != "storage" or not isinstance(told[1], Global):
            raise self.fail("a reference that is no storage")
        kind = STORAGES.get(told[1].name.rpartition(".")[2])
        if kind is None or not isinstance(told[2], str) or not _counts((told[4],)):
            raise self.fail("a storage without type, key or size")
        return Storage(told[2], kind, told[4])


def _counts(values: Any) -> bool:
    return isinstance(values, tuple | list) and all(type(n) is int and 0 <= n < 2**63 for n in values)
