"""A compiled function as a builtin of Python: no tuple of arguments, nothing unpacked that is not asked for.

numba's own entry point makes a tuple, unpacks a buffer, each array and each number into records, and lets go of the
interpreter's lock around the call: 196 ns for bytes, a number and two arrays, where this takes 55. The lock is kept,
so nothing else runs in the middle of a call: it is meant for functions of microseconds that raise nothing.
Arguments are read at the places where CPython and numpy keep them; nothing checks what they are.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core import config as numba_config
from numba.extending import intrinsic

from kernels.compile import CACHED, kernel

_FASTCALL = 0x80  # METH_FASTCALL: (self, address of the arguments, their number) → object
_WORD = ir.IntType(64)
_SIZE_AT = object.__basicsize__  # what follows the head of every object: a text's size, an array's address
_TEXT_AT = bytes.__basicsize__ - 1

_NUMBERS, _BYTES = np.arange(3), b"abc"
if (
    ctypes.c_size_t.from_address(id(_NUMBERS) + _SIZE_AT).value != _NUMBERS.ctypes.data
    or ctypes.c_size_t.from_address(id(_BYTES) + _SIZE_AT).value != len(_BYTES)
    or ctypes.string_at(id(_BYTES) + _TEXT_AT, len(_BYTES)) != _BYTES
):
    raise ImportError("bytes or arrays are laid out in another way than kernels.direct reads them")

if numba_config.DISABLE_JIT:

    def word_from(address):
        return ctypes.c_int64.from_address(int(address)).value

    def number_of(thing):
        return ctypes.cast(int(thing), ctypes.py_object).value

    def as_number(value):
        return value

    def misused():
        raise TypeError("wrong number of arguments")

else:

    @intrinsic
    def word_from(typing_context, address):
        """Return the word at an address."""

        def generate(context, builder, signature, arguments):
            return builder.load(builder.inttoptr(arguments[0], _WORD.as_pointer()))

        return types.int64(types.int64), generate

    def _call(name):
        def generate(context, builder, signature, arguments):
            kind = ir.FunctionType(_WORD, [_WORD] * len(arguments))
            return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), arguments)

        return generate

    @intrinsic
    def number_of(typing_context, thing):
        """Return the whole number that an int argument is."""
        return types.int64(types.int64), _call("PyLong_AsLongLong")

    @intrinsic
    def as_number(typing_context, value):
        """Return a new int object."""
        return types.int64(types.int64), _call("PyLong_FromLongLong")

    @intrinsic
    def misused(typing_context):
        """Raise TypeError, and return what the builtin is to return then."""

        def generate(context, builder, signature, arguments):
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "PyErr_BadArgument"), [])
            return ir.Constant(_WORD, 0)

        return types.int64(), generate


@kernel()
def argument(arguments, number):
    """Return the address of an argument's object."""
    return word_from(arguments + 8 * number)


@kernel()
def data_of(array):
    """Return the address of an array argument's first element."""
    return word_from(array + _SIZE_AT)


@kernel()
def text_of(text):
    """Return (address, size) of a bytes argument."""
    return text + _TEXT_AT, word_from(text + _SIZE_AT)


class _Definition(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p), ("code", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p))


class _Kept:
    """What a builtin needs as long as it lives: it is the `self` that the builtin holds."""

    def __init__(self, function: Callable[..., int]) -> None:
        signature = types.int64(types.int64, types.int64, types.int64)
        self.compiled = numba.cfunc(signature, cache=CACHED, error_model="numpy")(function)
        name, doc = function.__name__.encode(), (function.__doc__ or "").encode()
        self.definition = _Definition(name, self.compiled.address, _FASTCALL, doc)


def builtin(function: Callable[..., Any]) -> Callable[..., Any]:
    """Make a builtin of (self, arguments, count) → object, written with `argument`, `text_of` … and `as_number`.

    Whoever calls it gives arguments of the kinds that it reads. With the JIT disabled it runs as Python.
    """
    if numba_config.DISABLE_JIT:

        def interpreted(*arguments: Any) -> Any:
            places = np.array([id(thing) for thing in arguments], np.int64)
            return function(0, places.ctypes.data, len(arguments))

        return interpreted
    kept = _Kept(function)
    make = ctypes.pythonapi.PyCFunction_NewEx
    make.restype, make.argtypes = ctypes.py_object, (ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)
    return make(ctypes.addressof(kept.definition), kept, None)  # type: ignore[no-any-return]
