"""Tokens of a market event's JSON: where the values of its keys are, and the numbers among them.

Only what is ASCII without escapes, spaces between tokens, lists and deeper objects is read; all else is "another
shape". A first pass marks the quotes and what is no digit, 64 bytes at a time; a second goes from key to key by those
marks, in whatever order they come. Numbers are made of their digits, 16 at a time, when they are asked for: a decimal
is a mantissa of at most 2^53 over a power of ten below 10^16, divided once: IEEE rounds that as the decimal demands.

Frame and memory are passed by address: numba counts references of an array at each call of a helper, and those calls
cost more than the scanning.
"""

from __future__ import annotations

import math

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import config as numba_config
from numba.extending import intrinsic

from kernels.addresses import array_at
from kernels.compile import kernel

MIN_BYTES, MAX_BYTES = 64, 1_024  # of a frame; a real one has 130 … 400
_MARKS = MAX_BYTES // 64 + 2  # two words of none behind the end
CODES = 64  # a key of one letter is numbered by its low six bits
# Of the caller's memory: where the value of each key of the event and of its "k" begins and (in the upper half) ends;
# which keys have a text, a whole number, true or false; then the marks.
EVENT, K = 0, CODES
SEEN, TEXTS, INTS, K_TEXTS, K_INTS, K_TRUES, K_FALSES = range(2 * CODES, 2 * CODES + 7)
_QUOTES = K_FALSES + 1
_OTHERS = _QUOTES + _MARKS
TOKEN_WORDS = _OTHERS + _MARKS
ST, _DATA = 59, 60  # the numbers of the keys "st" and "data"; no letter has them
_BEHIND = -1  # no level: what follows the event in its wrapper

_ANY = 1 << 40  # the size of an array by address is not looked at
_QUOTE, _COMMA, _OPEN, _CLOSE, _MINUS, _DOT, _COLON, _ZERO = (ord(c) for c in '",{}-.:0')
_MAX_DIGITS = 16
_MAX_EXACT = np.uint64(1) << np.uint64(53)
_POWERS = 10.0 ** np.arange(_MAX_DIGITS)


def as_word(text: bytes) -> int:
    """Return what `eight` finds where a text of at most 8 bytes and then zeros stand."""
    return int.from_bytes(text.ljust(8, b"\0"), "little")


_KEY, _KEY_MASK = np.uint64(as_word(b'\0"\0":')), np.uint64(0xFFFF00FF00)
_A, _LETTERS = np.uint64(ord("A")), np.uint64(0x07FFFFFE)  # letters by their low five bits
_DATA_KEY, _ST_KEY = as_word(b"data"), as_word(b"st")
_TRUE_TEXT, _FALSE_TEXT, _NULL_TEXT = as_word(b"true"), as_word(b"false"), as_word(b"null")
_K_KEY = ord("k") & 63
TEXT, INT, TRUE, FALSE, NULL = range(5)

if numba_config.DISABLE_JIT:

    def eight(frame_at, at):
        return array_at(frame_at + at, 1, np.uint64)[0]

    def lowest(word):
        return (int(word) & -int(word)).bit_length() - 1 if word else 64

    def _bits(flags):
        return np.uint64(sum(1 << k for k, flag in enumerate(flags) if flag))

    def _marks(at):
        block = array_at(at, 64, np.uint8)
        odd = (block < 32) | (block > 126) | (block == 92)
        return _bits(odd), _bits(block == _QUOTE), _bits((block < 48) | (block > 57))

    def _digits(at, first):
        block = array_at(at, 16, np.uint8).copy()
        dots, wrong = block == _DOT, ((block < 48) | (block > 57)) & (block != _DOT)
        dots[:first] = wrong[:first] = False
        values = np.where(wrong | dots, 0, block - 48).astype(np.uint8)
        values[:first] = 0
        if dots.any():
            point = int(np.argmax(dots))
            values[1 : point + 1] = values[:point].copy()
            values[0] = 0
        low, high = values.view(np.uint64)
        return low, high, _bits(dots), _bits(wrong)

else:
    _I8, _I16, _I32, _I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
    _BLOCK, _TEXT = ir.VectorType(_I8, 64), ir.VectorType(_I8, 16)

    def _all(kind, value):
        return ir.Constant(kind, [value] * kind.count)

    def _load(builder, kind, at):
        return builder.load(builder.inttoptr(at, kind.as_pointer()), align=1)

    @intrinsic
    def lowest(typing_context, word):
        """Return the number of the lowest bit that is set, 64 if none is."""

        def generate(context, builder, signature, arguments):
            return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 0))

        return types.int64(types.uint64), generate

    @intrinsic
    def eight(typing_context, frame_at, at):
        """Return the 8 bytes from `at` on as a little-endian word; the caller has checked the bounds."""

        def generate(context, builder, signature, arguments):
            return _load(builder, _I64, builder.add(*arguments))

        return types.uint64(types.int64, types.int64), generate

    @intrinsic
    def _marks(typing_context, at):
        """Return three words about 64 bytes: those that no plain text has, quotes, and those that are no digits."""

        def generate(context, builder, signature, arguments):
            block = _load(builder, _BLOCK, arguments[0])
            odd = builder.icmp_signed("<", block, _all(_BLOCK, 32))  # and with the top bit set
            for byte in (92, 127):
                odd = builder.or_(odd, builder.icmp_unsigned("==", block, _all(_BLOCK, byte)))
            quotes = builder.icmp_unsigned("==", block, _all(_BLOCK, _QUOTE))
            others = builder.icmp_unsigned(">", builder.sub(block, _all(_BLOCK, _ZERO)), _all(_BLOCK, 9))
            words = [builder.bitcast(found, _I64) for found in (odd, quotes, others)]
            return context.make_tuple(builder, signature.return_type, words)

        return types.UniTuple(types.uint64, 3)(types.int64), generate

    @intrinsic
    def _digits(typing_context, at, first):
        """Return 16 bytes' digits, those before number `first` and a dot left out, so that the last is in byte 15.

        They come as two words; then which of the 16 were dots, and which neither dot nor digit.
        """

        def generate(context, builder, signature, arguments):
            block = builder.sub(_load(builder, _TEXT, arguments[0]), _all(_TEXT, _ZERO))
            all_bits = ir.Constant(_I16, 0xFFFF)
            kept = builder.shl(all_bits, builder.trunc(arguments[1], _I16))
            digits = builder.icmp_unsigned("<", block, _all(_TEXT, 10))
            are_dots = builder.bitcast(builder.icmp_unsigned("==", block, _all(_TEXT, (_DOT - _ZERO) & 255)), _I16)
            are_digits = builder.bitcast(digits, _I16)
            dots = builder.and_(are_dots, kept)
            wrong = builder.and_(builder.not_(builder.or_(are_dots, are_digits)), kept)
            used = builder.bitcast(builder.and_(are_digits, kept), ir.VectorType(ir.IntType(1), 16))
            values = builder.select(used, block, _all(_TEXT, 0))
            lanes = ir.Constant(ir.VectorType(_I32, 16), [16, *range(15)])
            moved = builder.shuffle_vector(values, _all(_TEXT, 0), lanes)
            up_to = builder.xor(dots, builder.sub(dots, ir.Constant(_I16, 1)))
            none = builder.icmp_unsigned("==", dots, ir.Constant(_I16, 0))
            up_to = builder.select(none, ir.Constant(_I16, 0), up_to)
            values = builder.select(builder.bitcast(up_to, ir.VectorType(ir.IntType(1), 16)), moved, values)
            words = builder.bitcast(values, ir.VectorType(_I64, 2))
            out = [builder.extract_element(words, ir.Constant(_I32, half)) for half in (0, 1)]
            out += [builder.zext(bits, _I64) for bits in (dots, wrong)]
            return context.make_tuple(builder, signature.return_type, out)

        return types.UniTuple(types.uint64, 4)(types.int64, types.int64), generate


@kernel()
def _survey(frame_at, size, memory_at):
    """Mark quotes and what is no digit; False if a byte is there that no plain text has."""
    marks = array_at(memory_at, _ANY, np.uint64)
    odd = np.uint64(0)
    blocks = size >> 6
    for block in range(blocks):
        strange, marks[_QUOTES + block], marks[_OTHERS + block] = _marks(frame_at + 64 * block)
        odd |= strange
    rest = np.uint64(64 - (size & 63))  # bytes of the last 64 that were marked already
    strange, quotes, others = _marks(frame_at + size - 64)
    if size & 63:
        marks[_QUOTES + blocks], marks[_OTHERS + blocks] = quotes >> rest, others >> rest
        blocks += 1
    marks[_QUOTES + blocks] = marks[_OTHERS + blocks] = np.uint64(0)
    marks[_QUOTES + blocks + 1] = marks[_OTHERS + blocks + 1] = np.uint64(0)
    return (odd | strange) == np.uint64(0)


@kernel()
def _next(memory_at, marks, at):
    """Return how far behind `at` the next mark is, 64 if further."""
    words = array_at(memory_at + 8 * (marks + (at >> 6)), 2, np.uint64)
    shift = np.uint64(at & 63)
    return lowest(words[0] >> shift | words[1] << np.uint64(1) << (np.uint64(63) - shift))


@kernel()
def word_at(frame_at, at, size):
    """Return up to 8 bytes as a little-endian word; zeros stand for what is behind the end."""
    if at + 8 <= size:
        return eight(frame_at, at)
    return eight(frame_at, size - 8) >> np.uint64(8 * (at + 8 - size)) if at < size else np.uint64(0)


@kernel()
def _keep_k(memory_at, texts, ints, trues, falses):
    memory = array_at(memory_at, _ANY, np.int64)
    memory[K_TEXTS], memory[K_INTS], memory[K_TRUES], memory[K_FALSES] = texts, ints, trues, falses


@kernel()
def _key(frame_at, at, word, size, memory_at):
    """Return the number of the key that begins behind `at`, 0 for one that is not asked for, and where its value is.

    The place is −1 where no key is. `word` is what stands from `at` on.
    """
    letter = word >> np.uint64(16) & np.uint64(255)
    if word & _KEY_MASK == _KEY and letter >= _A and _LETTERS >> (letter & np.uint64(31)) & np.uint64(1):
        return np.int64(letter & np.uint64(63)), at + 5
    frame = array_at(frame_at, _ANY, np.uint8)
    if at + 2 >= size or frame[at + 1] != _QUOTE:
        return 0, -1
    length = _next(memory_at, _QUOTES, at + 2)
    end = at + 2 + length
    if length == 64 or end + 2 >= size or frame[end + 1] != _COLON:
        return 0, -1
    text = np.int64(word_at(frame_at, at + 2, size))
    if length == 2 and text & 0xFFFF == _ST_KEY:
        return ST, end + 2
    return _DATA if length == 4 and text & 0xFFFFFFFF == _DATA_KEY else 0, end + 2


@kernel()
def _scalar(frame_at, at, size, memory_at, span):
    """Note the value at `at` in a word; return what it is and the place behind it, −1: no scalar."""
    frame = array_at(frame_at, _ANY, np.uint8)
    memory = array_at(memory_at, _ANY, np.int64)
    first = frame[at]
    if first == _QUOTE:
        length = _next(memory_at, _QUOTES, at + 1)
        end = at + 1 + length
        memory[span] = (at + 1) | end << 32
        return TEXT, end + 1 if length < 64 else -1
    begin = at + 1 if first == _MINUS else at
    length = _next(memory_at, _OTHERS, begin)
    if length:
        end = begin + length
        memory[span] = at | end << 32
        fits = length <= _MAX_DIGITS <= end and (length == 1 or frame[begin] != _ZERO)
        return INT, end if fits else -1
    word = np.int64(word_at(frame_at, at, size))
    if word & 0xFFFFFFFF == _TRUE_TEXT:
        return TRUE, at + 4
    if word & 0xFFFFFFFF == _NULL_TEXT:
        return NULL, at + 4
    return FALSE, at + 5 if word & 0xFFFFFFFFFF == _FALSE_TEXT else -1


@kernel()
def locate(frame_at, size, memory_at):
    """Note where the values of the event's keys are; False: another shape."""
    frame = array_at(frame_at, _ANY, np.uint8)
    memory = array_at(memory_at, _ANY, np.int64)
    if size < MIN_BYTES or size > MAX_BYTES or not _survey(frame_at, size, memory_at):
        return False
    _keep_k(memory_at, 0, 0, 0, 0)
    level, wrapped, at, expected = EVENT, False, 0, _OPEN
    seen = texts = ints = trues = falses = outer_seen = outer_texts = outer_ints = 0
    while at < size:
        word = word_at(frame_at, at, size)
        delimiter = np.int64(word & np.uint64(255))
        if delimiter != expected:
            if delimiter != _CLOSE or expected == _OPEN:
                return False
            at += 1
            if level == K:
                _keep_k(memory_at, texts, ints, trues, falses)
                level, seen, texts, ints = EVENT, outer_seen, outer_texts, outer_ints
                continue
            if level == EVENT:
                memory[SEEN], memory[TEXTS], memory[INTS] = seen, texts, ints
            if level == _BEHIND or not wrapped:
                return at == size
            level = _BEHIND
            continue
        code, at = _key(frame_at, at, word, size, memory_at)
        if at < 0 or at >= size or seen >> code & 1:
            return False
        expected = _COMMA
        if code == _DATA or frame[at] == _OPEN:
            if level != EVENT or frame[at] != _OPEN:
                return False
            if code == _DATA and not wrapped:
                wrapped = True  # what was seen so far belongs to the wrapper
                _keep_k(memory_at, 0, 0, 0, 0)
                seen = 0
            elif code == _K_KEY:
                level, outer_seen, outer_texts, outer_ints = K, seen | 1 << code, texts, ints
            else:
                return False
            seen = texts = ints = trues = falses = 0
            expected = _OPEN
            continue
        kind, at = _scalar(frame_at, at, size, memory_at, max(level, 0) + code)
        if at < 0:
            return False
        bit = (1 << code) & -2 if level >= 0 else 0  # of keys that are not asked for any number may come
        seen |= bit
        texts |= bit if kind == TEXT else 0
        ints |= bit if kind == INT else 0
        trues |= bit if kind == TRUE else 0
        falses |= bit if kind == FALSE else 0
    return False


@kernel()
def begin_of(memory_at, key):
    """Return where the value of a key begins that is there."""
    return array_at(memory_at, _ANY, np.int64)[key] & 0xFFFFFFFF


@kernel()
def end_of(memory_at, key):
    """Return where it ends."""
    return array_at(memory_at, _ANY, np.int64)[key] >> 32


@kernel()
def _eight_digits(digits):
    """Return the number that 8 digits are, the first in the lowest byte."""
    digits = digits * np.uint64(10) + (digits >> np.uint64(8)) & np.uint64(0x00FF00FF00FF00FF)
    digits = digits * np.uint64(100) + (digits >> np.uint64(16)) & np.uint64(0x0000FFFF0000FFFF)
    return digits * np.uint64(10_000) + (digits >> np.uint64(32)) & np.uint64(0xFFFFFFFF)


@kernel()
def _sixteen_digits(low, high):
    return _eight_digits(low) * np.uint64(100_000_000) + _eight_digits(high)


@kernel()
def whole(frame_at, memory_at, key):
    """Return the whole number of a key that has one."""
    frame = array_at(frame_at, _ANY, np.uint8)
    begin, end = begin_of(memory_at, key), end_of(memory_at, key)
    negative = frame[begin] == _MINUS
    low, high, _, _ = _digits(frame_at + end - 16, 16 - (end - begin) + negative)
    value = np.int64(_sixteen_digits(low, high))
    return -value if negative else value


@kernel()
def decimal(frame_at, memory_at, key):
    """Return the double nearest to the decimal of a text, or NaN if that takes more than one exact division."""
    frame = array_at(frame_at, _ANY, np.uint8)
    begin, end = begin_of(memory_at, key), end_of(memory_at, key)
    negative = frame[begin] == _MINUS
    begin += negative
    size = end - begin
    if size < 1 or size > _MAX_DIGITS + 1 or end < _MAX_DIGITS:
        return math.nan
    low, high, dots, wrong = _digits(frame_at + end - 16, max(16 - size, 0))
    mantissa = _sixteen_digits(low, high)
    if size > 16:  # 15 digits and a dot behind one more digit
        lead = np.uint64(frame[begin]) - np.uint64(_ZERO)
        wrong |= np.uint64(lead > np.uint64(9) or not dots)
        mantissa += lead * np.uint64(10**15)
    point = lowest(dots)  # 64: there is none
    if wrong | (dots & (dots - np.uint64(1))) or point == 15 or point == 16 - size or mantissa > _MAX_EXACT:
        return math.nan
    if frame[begin] == _ZERO and size > 1 and frame[begin + 1] != _DOT:
        return math.nan
    value = float(mantissa) / _POWERS[15 - point if dots else 0]
    if negative:
        return -value if mantissa else math.nan  # whether the parser's zero has a sign depends on the dot
    return value
