"""Tokens of a market event's JSON: where the values of its keys are, and the numbers among them.

Only what is ASCII without spaces, escapes, lists and deeper objects is read; everything else is "another shape". A
decimal of at most 18 digits is a mantissa of at most 2^53 over a power of ten of at most 10^22, divided once: IEEE
rounds that as the decimal demands.

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

CODES, FIELDS = 128, 4  # keys by their one byte; start, end, kind and, of a whole number, value
SPANS = 0  # of the caller's memory: 2 levels × CODES × FIELDS words
SEEN = SPANS + 2 * CODES * FIELDS  # 2 levels × 2 words: which keys are there
TOKEN_WORDS = SEEN + 4
_ANY = 1 << 40  # the size of an array by address is not looked at
TEXT, INT, TRUE, FALSE, NULL = range(5)
ST = 1  # the code of the key "st"

_OUTER = 2  # the level of {"stream": …, "data": …}
_QUOTE, _COLON, _COMMA, _OPEN, _CLOSE, _MINUS, _DOT, _BACKSLASH, _ZERO = 34, 58, 44, 123, 125, 45, 46, 92, 48
_MAX_EXACT = np.uint64(1) << np.uint64(53)
_MAX_DIGITS = 18
_POWERS = 10.0 ** np.arange(23)
_ONES, _TOPS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_SPACES, _QUOTES = np.uint64(0x2020202020202020), np.uint64(0x2222222222222222)
_BACKSLASHES, _DELETES = np.uint64(0x5C5C5C5C5C5C5C5C), np.uint64(0x7F7F7F7F7F7F7F7F)


if numba_config.DISABLE_JIT:

    def eight(frame_at, at):
        return array_at(frame_at + at, 1, np.uint64)[0]

    def _lowest(word):
        return (int(word) & -int(word)).bit_length() - 1

else:

    @intrinsic
    def _lowest(typing_context, word):
        """Return the number of the lowest bit that is set, of a word that is not 0."""

        def generate(context, builder, signature, arguments):
            return builder.cttz(arguments[0], ir.Constant(ir.IntType(1), 1))

        return types.int64(types.uint64), generate

    @intrinsic
    def eight(typing_context, frame_at, at):
        """Return the 8 bytes from `at` on as a little-endian word; the caller has checked the bounds."""

        def generate(context, builder, signature, arguments):
            place = builder.inttoptr(builder.add(*arguments), ir.IntType(64).as_pointer())
            word = builder.load(place)
            word.align = 1
            return word

        return types.uint64(types.int64, types.int64), generate


@kernel()
def word_at(frame_at, start, end):
    """Return up to 8 bytes as a little-endian word."""
    frame = array_at(frame_at, _ANY, np.uint8)
    if end - start >= 8:
        return np.int64(eight(frame_at, start))
    word = np.uint64(0)
    for k in range(start, end):
        word |= np.uint64(frame[k]) << np.uint64(8 * (k - start))
    return np.int64(word)


def as_word(text: bytes) -> int:
    """Return what `word_at` finds in a text."""
    return int.from_bytes(text[:8].ljust(8, b"\0"), "little")


_DATA, _TRUE_TEXT, _FALS, _NULL_TEXT = as_word(b"data"), as_word(b"true"), as_word(b"fals"), as_word(b"null")


@kernel()
def _string_end(frame_at, at, size):
    """Return where the string that begins at `at` (behind its quote) ends, or −1: not plain ASCII, or cut off."""
    frame = array_at(frame_at, _ANY, np.uint8)
    while at + 8 <= size:
        word = eight(frame_at, at)
        quotes, slashes, deletes = word ^ _QUOTES, word ^ _BACKSLASHES, word ^ _DELETES
        # the top bit of each byte that ends a string or may not be in one; above the lowest such bit it says nothing
        found = ((quotes - _ONES) & ~quotes) | ((slashes - _ONES) & ~slashes) | ((deletes - _ONES) & ~deletes)
        found = (found | ((word - _SPACES) & ~word) | word) & _TOPS
        if found:
            at += _lowest(found) >> 3
            return at if frame[at] == _QUOTE else -1
        at += 8
    while at < size:
        c = frame[at]
        if c == _QUOTE:
            return at
        if c < 32 or c > 126 or c == _BACKSLASH:
            return -1
        at += 1
    return -1


@kernel()
def _scalar(frame_at, at, size, memory_at, span):
    """Note the value at `at` in the words from `span` on; return the place behind it, or −1: no scalar."""
    frame = array_at(frame_at, _ANY, np.uint8)
    memory = array_at(memory_at, _ANY, np.int64)
    c = frame[at]
    if c == _QUOTE:
        end = _string_end(frame_at, at + 1, size)
        memory[span], memory[span + 1], memory[span + 2] = at + 1, end, TEXT
        return end + 1 if end >= 0 else -1
    memory[span] = at
    if c == _MINUS or 48 <= c <= 57:
        first = at + 1 if c == _MINUS else at
        end, value = first, 0
        while end < size and 48 <= frame[end] <= 57:
            value = value * 10 + (np.int64(frame[end]) - 48)
            end += 1
        digits = end - first
        if digits < 1 or digits > _MAX_DIGITS or (digits > 1 and frame[first] == _ZERO):
            return -1
        memory[span + 1], memory[span + 2], memory[span + 3] = end, INT, -value if c == _MINUS else value
        return end
    if at + 5 >= size:
        return -1
    word = word_at(frame_at, at, at + 4)
    kind = TRUE if word == _TRUE_TEXT else (NULL if word == _NULL_TEXT else FALSE)
    end = at + 4
    if kind == FALSE:
        if word != _FALS or frame[end] != 101:
            return -1
        end += 1
    memory[span + 1], memory[span + 2] = end, kind
    return end


@kernel()
def _forget(memory_at):
    memory = array_at(memory_at, _ANY, np.int64)
    memory[SEEN] = memory[SEEN + 1] = memory[SEEN + 2] = memory[SEEN + 3] = 0


@kernel()
def locate(frame_at, size, memory_at):
    """Note where the values of the event's keys are: level 0 of the event itself, 1 of its "k"; False: another shape.

    Bit `code` % 64 of word SEEN + 2 × level + code // 64 is set for a key that is there.
    """
    frame = array_at(frame_at, _ANY, np.uint8)
    memory = array_at(memory_at, _ANY, np.int64)
    _forget(memory_at)
    if size < 2 or frame[0] != _OPEN:
        return False
    level, at, depth, wrapped = 0, 1, 1, 0
    expect_key = True
    while at < size:
        if frame[at] == _CLOSE:
            if expect_key:
                return False
            at += 1
            depth -= 1
            if depth == 0:
                return at == size
            level = _OUTER if wrapped and depth == 1 else 0
            if at < size and frame[at] == _COMMA:
                at += 1
                expect_key = True
            continue
        if not expect_key or frame[at] != _QUOTE:
            return False
        start = at + 1
        end = _string_end(frame_at, start, size)
        if end < 0 or end + 2 >= size or frame[end + 1] != _COLON:
            return False
        at = end + 2
        length = end - start
        code = np.int64(frame[start]) if length == 1 else 0
        if length == 2 and frame[start] == 115 and frame[start + 1] == 116:
            code = ST
        named_data = length == 4 and word_at(frame_at, start, end) == _DATA
        if frame[at] == _OPEN:
            if level == 0 and depth == 1 and not wrapped and named_data:
                wrapped = 1  # a wrapped event: what was seen so far belongs to the wrapper
                _forget(memory_at)
            elif level == 0 and length == 1 and code == 107 and not memory[SEEN + 2] and not memory[SEEN + 3]:
                level = 1
            else:
                return False
            depth += 1
            at += 1
            continue
        if named_data:
            return False
        inner = 0 if level == _OUTER else level
        if level == _OUTER:
            code = 0
        at = _scalar(frame_at, at, size, memory_at, SPANS + (inner * CODES + code) * FIELDS)
        if at < 0:
            return False
        if code:
            memory[SEEN + 2 * inner + (code >> 6)] |= 1 << (code & 63)
        expect_key = False
        if at < size and frame[at] == _COMMA:
            at += 1
            expect_key = True
        elif at < size and frame[at] != _CLOSE:
            return False
    return False


@kernel()
def span_of(level, code):
    """Return the word where a value is noted."""
    return SPANS + (level * CODES + code) * FIELDS


@kernel()
def has(memory_at, level, code, kind):
    """Return whether the key is there with a value of a kind."""
    memory = array_at(memory_at, _ANY, np.int64)
    bit = memory[SEEN + 2 * level + (code >> 6)] >> (code & 63) & 1
    return bit and memory[span_of(level, code) + 2] == kind


@kernel()
def whole(memory_at, level, code):
    """Return the whole number of a key that `has` one."""
    memory = array_at(memory_at, _ANY, np.int64)
    return memory[span_of(level, code) + 3]


@kernel()
def decimal(frame_at, memory_at, level, code):
    """Return the double nearest to the decimal of a text, or NaN if that takes more than one exact division."""
    frame = array_at(frame_at, _ANY, np.uint8)
    memory = array_at(memory_at, _ANY, np.int64)
    span = span_of(level, code)
    at, end = memory[span], memory[span + 1]
    negative = at < end and frame[at] == _MINUS
    if negative:
        at += 1
    if at >= end or end - at > _MAX_DIGITS + 1:
        return math.nan
    if frame[at] == _ZERO and at + 1 < end and frame[at + 1] != _DOT:
        return math.nan
    mantissa, point, begin = np.uint64(0), end, at
    while at < end:
        c = frame[at]
        if c == _DOT:
            if point != end or at == begin or at + 1 == end:
                return math.nan
            point = at + 1
        elif 48 <= c <= 57:
            mantissa = mantissa * np.uint64(10) + np.uint64(c - 48)
        else:
            return math.nan
        at += 1
    if mantissa > _MAX_EXACT:
        return math.nan
    value = float(mantissa) / _POWERS[end - point]
    return -value if negative else value
