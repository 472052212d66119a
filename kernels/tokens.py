"""Tokens of a market event's JSON: where the values of its keys are, and the numbers that are asked for.

Only what is ASCII without escapes, spaces between tokens, lists and deeper objects is read; all else is "another
shape". A first pass marks the quotes and what is no digit; a second goes from key to key by those marks, in whatever
order they come.

Frame and memory are passed by address: numba counts references of an array at each call of a helper, and those calls
cost more than the scanning.
"""

from __future__ import annotations

import numpy as np

from kernels.addresses import array_at
from kernels.compile import kernel
from kernels.digits import MAX_DIGITS, byte, eight, lowest, marks, read_four

MIN_BYTES, MAX_BYTES = 64, 1_024  # of a frame; a real one has 130 … 400
_MARKS = MAX_BYTES // 64 + 2  # two words of none behind the end
CODES = 64  # a key of one letter is numbered by its low six bits
# Of the caller's memory: where the value of each key of the event and of its "k" begins and (in the upper half) ends;
# which keys have a text, a whole number, true or false; then the marks, and the numbers that were read.
EVENT, K = 0, CODES
SEEN, TEXTS, INTS, K_TEXTS, K_INTS, K_TRUES, K_FALSES = range(2 * CODES, 2 * CODES + 7)
_QUOTES = K_FALSES + 1
_OTHERS = _QUOTES + _MARKS
NUMBERS = 12  # that are read of an event at most: as whole numbers, and as doubles
WHOLES, DOUBLES = _OTHERS + _MARKS, _OTHERS + _MARKS + NUMBERS
TOKEN_WORDS = DOUBLES + NUMBERS
ST, _DATA = 59, 60  # the numbers of the keys "st" and "data"; no letter has them
_BEHIND = -1  # no level: what follows the event in its wrapper

_ANY = 1 << 40  # the size of an array by address is not looked at
_QUOTE, _COMMA, _OPEN, _CLOSE, _MINUS, _COLON, _ZERO = (ord(c) for c in '",{}-:0')


def as_word(text: bytes) -> int:
    """Return what `eight` finds where a text of at most 8 bytes and then zeros stand."""
    return int.from_bytes(text.ljust(8, b"\0"), "little")


_KEY, _KEY_MASK = np.uint64(as_word(b'\0"\0":')), np.uint64(0xFFFF00FF00)
_A, _LETTERS = np.uint64(ord("A")), np.uint64(0x07FFFFFE)  # letters by their low five bits
_DATA_KEY, _ST_KEY = as_word(b"data"), as_word(b"st")
_TRUE_TEXT, _FALSE_TEXT, _NULL_TEXT = as_word(b"true"), as_word(b"false"), as_word(b"null")
_K_KEY = ord("k") & 63
TEXT, INT, TRUE, FALSE, NULL = range(5)


@kernel(forceinline=True)
def _survey(frame_at, size, memory_at):
    """Mark quotes and what is no digit; False if a byte is there that no plain text has."""
    found = array_at(memory_at, _ANY, np.uint64)
    odd = np.uint64(0)
    blocks = size >> 6
    for block in range(blocks):
        strange, found[_QUOTES + block], found[_OTHERS + block] = marks(frame_at + 64 * block)
        odd |= strange
    rest = np.uint64(64 - (size & 63))  # bytes of the last 64 that were marked already
    strange, quotes, others = marks(frame_at + size - 64)
    if size & 63:
        found[_QUOTES + blocks], found[_OTHERS + blocks] = quotes >> rest, others >> rest
        blocks += 1
    found[_QUOTES + blocks] = found[_OTHERS + blocks] = np.uint64(0)
    found[_QUOTES + blocks + 1] = found[_OTHERS + blocks + 1] = np.uint64(0)
    return (odd | strange) == np.uint64(0)


@kernel(forceinline=True)
def _next(memory_at, marks, at):
    """Return how far behind `at` the next mark is, 64 if further."""
    words = array_at(memory_at + 8 * (marks + (at >> 6)), 2, np.uint64)
    shift = np.uint64(at & 63)
    return lowest(words[0] >> shift | words[1] << np.uint64(1) << (np.uint64(63) - shift))


@kernel(forceinline=True)
def word_at(frame_at, at, size):
    """Return up to 8 bytes as a little-endian word; zeros stand for what is behind the end."""
    if at + 8 <= size:
        return eight(frame_at, at)
    return eight(frame_at, size - 8) >> np.uint64(8 * (at + 8 - size)) if at < size else np.uint64(0)


@kernel(forceinline=True)
def _keep_k(memory_at, texts, ints, trues, falses):
    memory = array_at(memory_at, _ANY, np.int64)
    memory[K_TEXTS], memory[K_INTS], memory[K_TRUES], memory[K_FALSES] = texts, ints, trues, falses


@kernel(forceinline=True)
def _key(frame_at, at, word, size, memory_at):
    """Return the number of the key that begins behind `at`, 0 for one that is not asked for, and where its value is.

    The place is −1 where no key is. `word` is what stands from `at` on.
    """
    letter = word >> np.uint64(16) & np.uint64(255)
    if word & _KEY_MASK == _KEY and letter >= _A and _LETTERS >> (letter & np.uint64(31)) & np.uint64(1):
        return np.int64(letter & np.uint64(63)), at + 5
    if at + 2 >= size or byte(frame_at, at + 1) != _QUOTE:
        return 0, -1
    length = _next(memory_at, _QUOTES, at + 2)
    end = at + 2 + length
    if length == 64 or end + 2 >= size or byte(frame_at, end + 1) != _COLON:
        return 0, -1
    text = np.int64(word_at(frame_at, at + 2, size))
    if length == 2 and text & 0xFFFF == _ST_KEY:
        return ST, end + 2
    return _DATA if length == 4 and text & 0xFFFFFFFF == _DATA_KEY else 0, end + 2


@kernel(forceinline=True)
def _scalar(frame_at, first, at, size, memory_at, span):
    """Note the value at `at` in a word; return what it is and the place behind it, −1: no scalar. `first`: its byte."""
    noted = array_at(memory_at + 8 * span, 1, np.int64)
    if first == _QUOTE:
        length = _next(memory_at, _QUOTES, at + 1)
        end = at + 1 + length
        noted[0] = (at + 1) | end << 32
        return TEXT, end + 1 if length < 64 else -1
    begin = at + 1 if first == _MINUS else at
    length = _next(memory_at, _OTHERS, begin)
    if length:
        end = begin + length
        noted[0] = at | end << 32
        fits = length <= MAX_DIGITS and (length == 1 or byte(frame_at, begin) != _ZERO)
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
        expected, first = _COMMA, byte(frame_at, at)
        if code == _DATA or first == _OPEN:
            if level != EVENT or first != _OPEN:
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
        kind, at = _scalar(frame_at, first, at, size, memory_at, max(level, 0) + code)
        if at < 0:
            return False
        bit = (1 << code) & -2 if level >= 0 else 0  # of keys that are not asked for any number may come
        seen |= bit
        texts |= bit if kind == TEXT else 0
        ints |= bit if kind == INT else 0
        trues |= bit if kind == TRUE else 0
        falses |= bit if kind == FALSE else 0
    return False


@kernel(forceinline=True)
def begin_of(memory_at, key):
    """Return where the value of a key begins that is there."""
    return array_at(memory_at, _ANY, np.int64)[key] & 0xFFFFFFFF


@kernel(forceinline=True)
def end_of(memory_at, key):
    """Return where it ends."""
    return array_at(memory_at, _ANY, np.int64)[key] >> 32


@kernel(forceinline=True)
def _span(memory_at, keys_at, number):
    return np.int64(eight(memory_at, 8 * np.int64(eight(keys_at, 8 * number))))


@kernel(forceinline=True)
def read_numbers(frame_at, memory_at, keys_at, count):
    """Read the numbers of so many keys, by fours; each must be there with a text or whole number.

    Returns for the last four, and for all others, which are wrong: see `read_four`.
    """
    wrong = others = np.uint64(0)
    for k in range(0, count, 4):
        a, b = _span(memory_at, keys_at, k), _span(memory_at, keys_at, k + 1)
        c, d = _span(memory_at, keys_at, k + 2), _span(memory_at, keys_at, k + 3)
        others |= wrong
        wrong = read_four(frame_at, a, b, c, d, memory_at + 8 * (WHOLES + k), memory_at + 8 * (DOUBLES + k))
    return wrong, others
