# Licensed under the Apache License, Version 2.0. See the LICENSE file.
"""A digest of a function's code and of all that it refers to, the same in every process for the same code.

It covers the bytecode, defaults, closures, and the user's own functions, classes and constants that the code names; not comments,
docstrings, line numbers and file names. The standard library and `_LIBRARIES` count by name and version.
"""

from __future__ import annotations

import copyreg
import dis
import hashlib
import importlib
import inspect
import sys
import types
from collections.abc import Callable, Iterator
from functools import cached_property, partial
from importlib import metadata
from typing import Any

from limio_limitrail.troubleshooting import ExplainedError

_LIBRARIES = frozenset(
    {
        "attr", "attrs", "dateutil", "duckdb", "jinja2", "msgspec", "numpy", "orjson", "pandas", "pendulum", "polars", "pyarrow",
        "pydantic", "pydantic_core", "pytz", "requests", "scipy", "six", "sklearn", "sqlalchemy", "typing_extensions", "yaml",
    }
)  # fmt: skip
_OWN = frozenset({"airflow", "limio_limitrail"})
"""Libraries whose version does not count: `pull_identity.PARTS_FORMAT` covers what they do to a part."""

_MAX_DEPTH = 100
_MAX_VALUES = 100_000
_COMPILED = (
    types.BuiltinFunctionType,
    types.WrapperDescriptorType,
    types.MethodWrapperType,
    types.MethodDescriptorType,
    types.ClassMethodDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
)
# Attributes of a class that its author did not write.
_IGNORED_ATTRIBUTES = frozenset(
    {
        "__annotations__", "__dataclass_fields__", "__dataclass_params__", "__dict__", "__doc__", "__firstlineno__",
        "__match_args__", "__module__", "__orig_bases__", "__parameters__", "__static_attributes__", "__weakref__",
        "__abstractmethods__", "_abc_impl", "__annotate__", "__annotate_func__", "__annotations_cache__", "__classdictcell__",
    }
)  # fmt: skip
_FLAGS = (
    inspect.CO_VARARGS
    | inspect.CO_VARKEYWORDS
    | inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ITERABLE_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
)
_NOTHING = object()


class UnknownCodeError(ExplainedError, ValueError):
    """The code of a function cannot be determined. The message names a class or a variable, never a value."""


def code_digest(value: object) -> str:
    """Return the digest of a function, or of any other callable or value.

    :raises UnknownCodeError: its code is compiled, its state cannot be read, or it refers to more than can be followed.
    """
    try:
        return _Digest().of(value).hex()
    except RecursionError:
        raise UnknownCodeError("it is nested too deeply") from None


class _Digest:
    """One traversal of code and values."""

    def __init__(self) -> None:
        self._left = _MAX_VALUES
        # The depth of the values that are being visited, by id: a reference to one of them is a cycle.
        self._open: dict[int, int] = {}
        self._outermost = _MAX_DEPTH
        # Values that take no part in an open cycle. A reference to each prevents its id from being reused.
        self._done: dict[int, tuple[Any, bytes]] = {}

    def of(self, value: Any) -> bytes:
        """Return the digest of any value."""
        if value is None or value is Ellipsis or value is NotImplemented or type(value) in {bool, float, complex}:
            return _hash("plain", type(value).__name__.encode(), repr(value).encode())
        if type(value) is int:
            return _hash("int", f"{value:x}".encode())
        if type(value) is str:
            return _hash("text", value.encode("utf-8", "surrogatepass"))
        if type(value) in {bytes, bytearray}:
            return _hash("bytes", bytes(value))
        if id(value) in self._done:
            return self._done[id(value)][1]
        if id(value) in self._open:
            depth = self._open[id(value)]
            self._outermost = min(self._outermost, depth)
            return _hash("again", str(len(self._open) - depth).encode())
        return self._nested(value)

    def _nested(self, value: Any) -> bytes:
        depth = len(self._open)
        if depth >= _MAX_DEPTH:
            raise UnknownCodeError("it is nested too deeply")
        self._left -= 1
        if self._left < 0:
            raise UnknownCodeError("it refers to more code and values than can be followed")
        outermost, self._outermost = self._outermost, _MAX_DEPTH
        self._open[id(value)] = depth
        try:
            digest = _hash(*self._members(value))
        finally:
            del self._open[id(value)]
        if self._outermost >= depth:
            self._done[id(value)] = (value, digest)
            self._outermost = outermost
        else:
            self._outermost = min(outermost, self._outermost)
        return digest

    def _members(self, value: Any) -> tuple[Any, ...]:
        kind = type(value)
        if kind in {tuple, list}:
            return (kind.__name__, *map(self.of, value))
        if isinstance(value, set | frozenset):
            return ("set", self.of(kind), *sorted(map(self.of, value)))
        if kind is dict:
            # In insertion order, which a function can observe.
            return ("dict", *(self.of(one) for item in value.items() for one in item))
        if kind is types.CodeType:
            return ("code", *self._code(value, names=None))
        if kind is types.FunctionType:
            return ("function", *self._function(value))
        if kind is types.MethodType:
            return ("method", self.of(value.__func__), self.of(value.__self__))
        if kind is partial:
            return ("partial", self.of(value.func), self.of(value.args), self.of(value.keywords))
        if kind in {staticmethod, classmethod}:
            return (kind.__name__, self.of(value.__func__))
        if kind is cached_property:
            return ("property", self.of(value.func))
        if kind is property:
            return ("property", self.of(value.fget), self.of(value.fset), self.of(value.fdel))
        if kind is types.ModuleType:
            return ("module", *self._module(value))
        if kind is types.CellType:
            return ("cell", self.of(value.cell_contents)) if _is_filled(value) else ("empty cell",)
        if isinstance(value, _COMPILED):
            return ("compiled", *self._compiled(value))
        if isinstance(value, type):
            return ("class", *self._class(value))
        return ("object", *self._object(value))

    # -- functions -------------------------------------------------------------------------------------------------

    def _function(self, function: types.FunctionType) -> Iterator[bytes]:
        module = function.__globals__.get("__name__")
        if (library := _library(module)) is not None:
            yield from _named(library, f"{module}.{function.__qualname__}")
            return
        yield from self._code(function.__code__, names=function.__globals__)
        for attribute in ("__defaults__", "__kwdefaults__", "__closure__"):
            yield self.of(getattr(function, attribute))
        yield self.of({name: one for name, one in vars(function).items() if name != "__wrapped__"})

    def _code(self, code: types.CodeType, *, names: dict[str, Any] | None) -> Iterator[bytes]:
        """Digest a code object by its instructions, without their line numbers.

        :param names: its globals; None if the code object is a mere value.
        """
        shape = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags & _FLAGS)
        yield _hash("shape", repr(shape).encode())
        yield _hash("variables", repr((code.co_varnames, code.co_freevars, code.co_cellvars)).encode())
        yield _hash("handlers", code.co_exceptiontable)
        instructions = list(dis.get_instructions(code))
        for instruction in instructions:
            yield instruction.opname.encode()
            if isinstance(instruction.argval, types.CodeType):
                yield _hash("code", *self._code(instruction.argval, names=names))
            else:
                yield self.of(instruction.argval)
        if names is not None:
            yield from self._references(instructions, names)

    def _references(self, instructions: list[dis.Instruction], names: dict[str, Any]) -> Iterator[bytes]:
        """Digest what the code's names refer to: globals, members of modules, and imports within the code."""
        for index, instruction in enumerate(instructions):
            following = instructions[index + 1 :]
            if instruction.opname in {"LOAD_GLOBAL", "LOAD_NAME"}:
                value = _global(names, instruction.argval)
                yield b"missing" if value is _NOTHING else self._member(value, following, name=instruction.argval)
            elif instruction.opname == "IMPORT_NAME" and instruction.argval:
                before = instructions[:index]
                yield from self._imported(instruction.argval, following, package=names.get("__package__"), before=before)

    def _member(self, value: Any, following: list[dis.Instruction], *, name: str) -> bytes:
        """Digest a value; of a module of which the code uses a member, only that member."""
        for step in following:
            if step.opname not in {"LOAD_ATTR", "LOAD_METHOD"} or not _is_own_module(value):
                break
            if (value := getattr(value, step.argval, _NOTHING)) is _NOTHING:
                return _hash("missing")
            name = f"{name}.{step.argval}"
        try:
            return self.of(value)
        except UnknownCodeError as error:
            # The innermost name is the most specific.
            raise (error if "refers to" in error.what else UnknownCodeError(f"it refers to {name!r}, and {error.what}")) from None

    def _imported(
        self, name: str, following: list[dis.Instruction], *, package: str | None, before: list[dis.Instruction]
    ) -> Iterator[bytes]:
        level = next((one.argval for one in before[-2:-1] if isinstance(one.argval, int)), 0)
        if not level and _library(name) is not None:
            return
        try:
            module = importlib.import_module("." * level + name, package)
        except Exception as error:  # noqa: BLE001 - a module may raise anything, and will do so in the function, too
            raise UnknownCodeError(f"it imports {name!r}, which failed ({type(error).__name__})") from None
        members = []
        for step in following:
            if step.opname == "IMPORT_FROM":
                members.append(step.argval)
            elif not step.opname.startswith(("STORE_", "POP_TOP", "SWAP", "CACHE")):
                break
        for member in members:
            yield self._member(getattr(module, member, None), [], name=f"{name}.{member}")
        if not members:
            yield self.of(module)

    # -- modules, classes, objects ---------------------------------------------------------------------------------

    def _module(self, module: types.ModuleType) -> Iterator[bytes]:
        """Digest a whole module by its file, because the code does more than to use a member of it."""
        if (library := _library(module.__name__)) is not None:
            yield from _named(library, module.__name__)
            return
        try:
            with open(str(module.__file__), "rb") as file:  # noqa: PTH123 - cheaper than a Path
                yield hashlib.sha256(file.read()).digest()
        except OSError:
            raise UnknownCodeError(f"module {module.__name__!r} has no file that can be read") from None

    def _class(self, kind: type) -> Iterator[bytes]:
        if (library := _library(kind.__module__)) is not None:
            yield from _named(library, f"{kind.__module__}.{kind.__qualname__}")
            return
        yield kind.__qualname__.rpartition(".")[2].encode()
        if type(kind) is not type:
            yield self.of(type(kind))
        for base in kind.__bases__:
            yield self.of(base)
        for name, value in sorted(vars(kind).items()):
            if name not in _IGNORED_ATTRIBUTES:
                yield name.encode()
                # Slots count by name.
                yield b"slot" if isinstance(value, types.MemberDescriptorType | types.GetSetDescriptorType) else self.of(value)

    def _compiled(self, value: Any) -> Iterator[bytes]:
        owner = getattr(value, "__self__", None)
        if owner is not None and not isinstance(owner, types.ModuleType):
            yield self.of(owner)
            yield value.__name__.encode()
            return
        home = getattr(value, "__objclass__", None)
        module = home.__module__ if home is not None else value.__module__
        yield from self._by_name(module, value.__qualname__)

    def _by_name(self, module: str | None, name: str) -> Iterator[bytes]:
        library = _library(module) or _distribution(module)
        if library is None:
            raise UnknownCodeError(f"{name.rpartition('.')[2]!r} is compiled")
        yield from _named(library, f"{module}.{name}")

    def _object(self, value: Any) -> Iterator[bytes]:
        """Digest an object by what a copy of it would be made from."""
        reduce: Callable[[Any], Any] | None = copyreg.dispatch_table.get(type(value))
        try:
            reduced = reduce(value) if reduce is not None else value.__reduce_ex__(4)
        except Exception:  # noqa: BLE001 - a class may raise anything here
            raise UnknownCodeError(f"the state of a {type(value).__qualname__} cannot be read") from None
        if not isinstance(reduced, str):
            yield self.of(type(value))
            for one in reduced:
                yield self.of(list(one) if isinstance(one, Iterator) else one)
        elif (inner := getattr(value, "__wrapped__", None)) is not None:
            yield self.of(inner)
        else:
            yield from self._by_name(getattr(value, "__module__", None) or type(value).__module__, reduced)


def _hash(kind: str, *parts: bytes) -> bytes:
    found = hashlib.sha256(kind.encode())
    for part in parts:
        found.update(len(part).to_bytes(8, "big"))
        found.update(part)
    return found.digest()


def _named(library: str, name: str) -> tuple[bytes, bytes]:
    return library.encode(), name.encode()


def _global(names: dict[str, Any], name: str) -> Any:
    if name in names:
        return names[name]
    builtins = names.get("__builtins__", {})
    return (vars(builtins) if isinstance(builtins, types.ModuleType) else builtins).get(name, _NOTHING)


def _is_filled(cell: types.CellType) -> bool:
    try:
        _ = cell.cell_contents
    except ValueError:
        return False
    return True


def _is_own_module(value: object) -> bool:
    return isinstance(value, types.ModuleType) and _library(value.__name__) is None


def _library(module: object) -> str | None:
    """Return the name and version of the library that a module belongs to; None if its code is to be digested."""
    top = str(module or "").partition(".")[0]
    if top in sys.stdlib_module_names or top in _OWN:
        return top
    if top not in _LIBRARIES:
        return None
    return f"{top} {getattr(sys.modules.get(top), '__version__', '')}"


def _distribution(module: object) -> str | None:
    """Return the name and version of the installed package of a compiled module."""
    top = str(module or "").partition(".")[0]
    try:
        return f"{top} {metadata.version(top)}" if top else None
    except metadata.PackageNotFoundError:
        return None
