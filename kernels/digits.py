"""Text in vector registers: marks of 64 bytes at a time, and the numbers of four texts at a time.

A decimal is a mantissa of at most 2^53 over a power of ten below 10^16, divided once: IEEE rounds that as the decimal
demands. What takes more (17 characters and up, an exponent) is not read, and what is no decimal in JSON.
Everything is generic LLVM, correct on every CPU, and short where AVX-512 exists. Addresses are checked by the callers.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config as numba_config
from numba.extending import intrinsic

from kernels.addresses import array_at
from kernels.compile import kernel

MAX_DIGITS = 16
_MAX_EXACT = 1 << 53
_POWERS = 10.0 ** np.arange(MAX_DIGITS)
_QUOTE, _BACKSLASH, _DELETE, _MINUS, _DOT, _ZERO = 34, 92, 127, 45, 46, 48
# Of four texts at a time: a group of 16 bits each, of which the top one is the text's last byte
_FIRSTS, _LASTS = np.uint64(0x0001000100010001), np.uint64(0x8000800080008000)
_ONE, _RIGHT, _SECOND, _THIRD, _FOURTH = (np.uint64(bits) for bits in (1, 15, 16, 32, 48))

if numba_config.DISABLE_JIT:

    def byte(text_at, at):
        return array_at(text_at + at, 1, np.uint8)[0]

    def eight(text_at, at):
        return array_at(text_at + at, 1, np.uint64)[0]

    def lowest(word):
        return (int(word) & -int(word)).bit_length() - 1 if word else 64

    def _bits(flags):
        return np.uint64(sum(1 << k for k, flag in enumerate(flags) if flag))

    def _four(a, b, c, d):
        return np.concatenate([array_at(at, 16, np.uint8) for at in (a, b, c, d)])

    def marks(at):
        block = array_at(at, 64, np.uint8)
        odd = (block < 32) | (block > 126) | (block == _BACKSLASH)
        return _bits(odd), _bits(block == _QUOTE), _bits((block < 48) | (block > 57))

    def _classes(a, b, c, d):
        block = _four(a, b, c, d)
        digits = (block >= 48) & (block <= 57)
        return _bits(digits), _bits(block == _ZERO), _bits(block == _DOT), _bits(block == _MINUS)

    def _values(a, b, c, d, used, moved):
        out = []
        for k, text in enumerate(_four(a, b, c, d).reshape(4, 16)):
            lanes = [int(c) - 48 if int(used) >> (16 * k + n) & 1 else 0 for n, c in enumerate(text)]
            lanes = [lanes[n - 1] if n and int(moved) >> (16 * k + n) & 1 else lanes[n] for n in range(16)]
            out.append(np.int64(int("".join(map(str, lanes)))))
        return tuple(out)

else:
    _I1, _I8, _I32, _I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))
    _BLOCK, _BITS, _WORDS = ir.VectorType(_I8, 64), ir.VectorType(_I1, 64), ir.VectorType(_I64, 8)

    def _all(kind, value):
        return ir.Constant(kind, [value] * kind.count)

    def _load(builder, kind, at):
        return builder.load(builder.inttoptr(at, kind.as_pointer()), align=1)

    def _pick(builder, left, right, lanes):
        return builder.shuffle_vector(left, right, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))

    def _digits_of_four(builder, places):
        """Return the 64 bytes of four texts of 16, less the code of the digit 0."""
        texts = [_load(builder, ir.VectorType(_I8, 16), at) for at in places]
        halves = [_pick(builder, texts[k], texts[k + 1], list(range(32))) for k in (0, 2)]
        block = _pick(builder, halves[0], halves[1], list(range(64)))
        return builder.sub(block, _all(_BLOCK, _ZERO))

    @intrinsic
    def lowest(typing_context, word):
        """Return the number of the lowest bit that is set, 64 if none is."""

        def generate(context, builder, signature, arguments):
            return builder.cttz(arguments[0], ir.Constant(_I1, 0))

        return types.int64(types.uint64), generate

    @intrinsic
    def byte(typing_context, text_at, at):
        """Return one byte. An index into an array would be asked whether it is negative."""

        def generate(context, builder, signature, arguments):
            return builder.zext(_load(builder, _I8, builder.add(*arguments)), _I64)

        return types.int64(types.int64, types.int64), generate

    @intrinsic
    def eight(typing_context, text_at, at):
        """Return the 8 bytes from `at` on as a little-endian word."""

        def generate(context, builder, signature, arguments):
            return _load(builder, _I64, builder.add(*arguments))

        return types.uint64(types.int64, types.int64), generate

    @intrinsic
    def marks(typing_context, at):
        """Return three words about 64 bytes: those that no plain text has, quotes, and those that are no digits."""

        def generate(context, builder, signature, arguments):
            block = _load(builder, _BLOCK, arguments[0])
            odd = builder.icmp_signed("<", block, _all(_BLOCK, 32))  # and with the top bit set
            for byte in (_BACKSLASH, _DELETE):
                odd = builder.or_(odd, builder.icmp_unsigned("==", block, _all(_BLOCK, byte)))
            quotes = builder.icmp_unsigned("==", block, _all(_BLOCK, _QUOTE))
            others = builder.icmp_unsigned(">", builder.sub(block, _all(_BLOCK, _ZERO)), _all(_BLOCK, 9))
            words = [builder.bitcast(found, _I64) for found in (odd, quotes, others)]
            return context.make_tuple(builder, signature.return_type, words)

        return types.UniTuple(types.uint64, 3)(types.int64), generate

    @intrinsic
    def _classes(typing_context, a, b, c, d):
        """Return which of four times 16 bytes are digits, the digit 0, dots and minuses."""

        def generate(context, builder, signature, arguments):
            block = _digits_of_four(builder, arguments)
            digits = builder.icmp_unsigned("<", block, _all(_BLOCK, 10))
            codes = [(byte - _ZERO) & 255 for byte in (_ZERO, _DOT, _MINUS)]
            found = [digits, *(builder.icmp_unsigned("==", block, _all(_BLOCK, code)) for code in codes)]
            words = [builder.bitcast(bits, _I64) for bits in found]
            return context.make_tuple(builder, signature.return_type, words)

        return types.UniTuple(types.uint64, 4)(*[types.int64] * 4), generate

    @intrinsic
    def _values(typing_context, a, b, c, d, used, moved):
        """Return the numbers of four times 16 bytes: the digits at `used`, those before a byte of `moved` one on."""

        def generate(context, builder, signature, arguments):
            block = _digits_of_four(builder, arguments[:4])
            used, moved = (builder.bitcast(bits, _BITS) for bits in arguments[4:])
            digits = builder.select(used, block, _all(_BLOCK, 0))
            lanes = [n - 1 if n % 16 else 64 for n in range(64)]  # 64: a zero
            shifted = _pick(builder, digits, _all(_BLOCK, 0), lanes)
            words = builder.bitcast(builder.select(moved, shifted, digits), _WORDS)
            for scale, width, mask in (
                (10, 8, 0x00FF00FF00FF00FF),
                (100, 16, 0x0000FFFF0000FFFF),
                (10_000, 32, 2**32 - 1),
            ):
                left = builder.mul(words, _all(_WORDS, scale))
                right = builder.lshr(words, _all(_WORDS, width))
                words = builder.and_(builder.add(left, right), _all(_WORDS, mask))
            upper, lower = (_pick(builder, words, words, list(range(half, 8, 2))) for half in (0, 1))
            total = builder.add(builder.mul(upper, _all(ir.VectorType(_I64, 4), 10**8)), lower)
            out = [builder.extract_element(total, ir.Constant(_I32, k)) for k in range(4)]
            return context.make_tuple(builder, signature.return_type, out)

        return types.UniTuple(types.int64, 4)(*[types.int64] * 4, *[types.uint64] * 2), generate


@kernel(forceinline=True)
def _any(groups):
    """Return the top bit of each group that has a bit."""
    return ((groups & ~_LASTS) + ~_LASTS | groups) & _LASTS


@kernel(forceinline=True)
def _first(kept):
    """Return the lowest bit of each group whose bits reach up to its top."""
    return kept & ~(kept << _ONE & ~_FIRSTS)


@kernel(forceinline=True)
def _kept(size):
    """Return which of 16 bytes are the last `size`."""
    return np.uint64((0xFFFF0000 >> size) & 0xFFFF)


@kernel(forceinline=True)
def _sign(signs):
    return -1 if signs & np.uint64(0x8000) else 1


@kernel(forceinline=True)
def _write(value, dots, wholes_at, doubles_at):
    array_at(wholes_at, 1, np.int64)[0] = value
    decimals = 15 - lowest((dots | _LASTS) & np.uint64(0xFFFF))
    array_at(doubles_at, 1, np.float64)[0] = float(value) / _POWERS[np.uint64(decimals)]


@kernel(forceinline=True)
def read_four(text_at, a, b, c, d, wholes_at, doubles_at):
    """Write four texts' numbers: as int64[4] without regard to a dot, and as float64[4].

    A text is given as the place where it begins and, in the upper half of the word, where it ends; texts are shorter
    than 64 bytes. Returns a word whose bit 15, 31, 47 or 63 is set for a text that is no number or takes more than one
    exact division; −0 too, as whether the parser's zero has a sign depends on the dot.
    """
    p, q, r, s = a >> 32, b >> 32, c >> 32, d >> 32
    k, m, n, o = p - (a & 0xFFFFFFFF), q - (b & 0xFFFFFFFF), r - (c & 0xFFFFFFFF), s - (d & 0xFFFFFFFF)
    if (16 - k | 16 - m | 16 - n | 16 - o | p - 16 | q - 16 | r - 16 | s - 16) < 0:
        return _LASTS
    kept = _kept(k) | _kept(m) << _SECOND | _kept(n) << _THIRD | _kept(o) << _FOURTH
    at = text_at - 16
    digits, zeros, dots, minuses = _classes(p + at, q + at, r + at, s + at)
    negative = minuses & _first(kept)
    kept ^= negative
    digits, dots, first = digits & kept, dots & kept, _first(kept)
    up_to = (dots | _LASTS) ^ (dots | _LASTS) - _FIRSTS  # the first dot and what is before it
    dotted = _any(dots)
    moved = up_to & (dotted | dotted - (dotted >> _RIGHT))
    v, w, x, y = _values(p + at, q + at, r + at, s + at, digits, moved)
    wrong = kept ^ digits ^ dots | first & dots | dots & (_LASTS | ~up_to) | _LASTS & ~kept
    wrong = _any(wrong | first & zeros & (digits >> _ONE & ~_LASTS))
    if (_MAX_EXACT - v | _MAX_EXACT - w | _MAX_EXACT - x | _MAX_EXACT - y) < 0:
        return _LASTS
    if negative:
        signs = _any(negative)
        v, w = v * _sign(signs), w * _sign(signs >> _SECOND)
        x, y = x * _sign(signs >> _THIRD), y * _sign(signs >> _FOURTH)
        wrong |= signs & ~_any(digits & ~zeros)
    _write(v, dots, wholes_at, doubles_at)
    _write(w, dots >> _SECOND, wholes_at + 8, doubles_at + 8)
    _write(x, dots >> _THIRD, wholes_at + 16, doubles_at + 16)
    _write(y, dots >> _FOURTH, wholes_at + 24, doubles_at + 24)
    return wrong
