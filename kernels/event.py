"""From a frame's bytes to the values of a kline, a bookTicker or a markPriceUpdate. Nothing is judged here."""

from __future__ import annotations

import math

import numpy as np

from kernels.addresses import array_at
from kernels.compile import kernel
from kernels.digits import byte, eight
from kernels.names import NAME_BYTES, NAME_WORDS, name_of
from kernels.tokens import (
    DOUBLES,
    EVENT,
    INTS,
    K_FALSES,
    K_INTS,
    K_TEXTS,
    K_TRUES,
    NUMBERS,
    SEEN,
    ST,
    TEXTS,
    TOKEN_WORDS,
    WHOLES,
    K,
    as_word,
    begin_of,
    end_of,
    locate,
    read_numbers,
    word_at,
)

KLINE, TICKER, PRICE = range(3)  # kinds of events: 12, 8 and 4 numbers are read


def _keys(letters: str, level: int = EVENT) -> list[int]:
    return [level + (ord(letter) & 63) for letter in letters]  # as `kernels.tokens` numbers them


def _bits(letters: str) -> int:
    return sum(1 << key for key in _keys(letters))


# By kind: the texts and whole numbers that the event must have, and its "k"; then the numbers that are read, by fours.
_NEEDED = np.array(
    [
        (_bits("es"), _bits("E"), _bits("siohlcvqV"), _bits("ntTL")),
        (_bits("esbBaA"), _bits("Eu"), 0, 0),
        (_bits("espr"), _bits("ET"), 0, 0),
    ]
)
_ASKED = np.array([_keys("E") + _keys("ohlcvqVntTL", K), _keys("EubBaAEEEEEE"), _keys("ETprEEEEEEEE")])
_RATE_WRONG = np.uint64(1 << 63)  # the fourth of a mark's numbers is none

# Where the values are, of the caller's memory
EVENT_MS, UPDATE_ID, NEXT_MS = WHOLES, WHOLES + 1, WHOLES + 1
BID, BID_QTY, ASK, ASK_QTY = range(DOUBLES + 2, DOUBLES + 6)
MARK_PRICE, RATE = DOUBLES + 2, DOUBLES + 3  # the rate: NaN if there is none
BAR = DOUBLES + 1  # open, high, low, close, volume, quote volume, taker volume, trades
TRADES, OPEN_MS, CLOSE_MS, TRADE_ID = range(WHOLES + 8, WHOLES + 12)
NAME = TOKEN_WORDS  # the symbol
TIMEFRAME, FINAL, EVENT_WORDS = range(NAME + NAME_WORDS, NAME + NAME_WORDS + 3)

_ANY = 1 << 40  # the size of an array by address is not looked at
_E, _S, _R, _ST = *_keys("esr"), EVENT + ST
_K_S, _K_I = _keys("si", K)
_X_BIT = _bits("x")
_KLINE_TEXT = as_word(b"kline")
_BOOK_FIRST, _BOOK_LAST = as_word(b"bookTick"), as_word(b"okTicker")
_MARK_FIRST, _MARK_LAST = as_word(b"markPric"), as_word(b"ceUpdate")
_ONE_M, _ONE_H, _FIFTEEN_M = as_word(b"1m"), as_word(b"1h"), as_word(b"15m")
_COIN_M = ord("2")  # the value of `st` in rows of coin-margined contracts


@kernel(forceinline=True)
def _kind_of(frame_at, size, memory_at):
    """Return the event's kind, −1 for one without what a market event must have."""
    memory = array_at(memory_at, _ANY, np.int64)
    if not memory[TEXTS] >> _E & 1:
        return -1
    begin, end = begin_of(memory_at, _E), end_of(memory_at, _E)
    first, last = np.int64(word_at(frame_at, begin, size)), np.int64(eight(frame_at, max(end - 8, 0)))
    if end - begin == 10 and first == _BOOK_FIRST and last == _BOOK_LAST:
        kind = TICKER
    elif end - begin == 5 and first & 0xFFFFFFFFFF == _KLINE_TEXT:
        kind = KLINE
    elif end - begin == 15 and first == _MARK_FIRST and last == _MARK_LAST:
        kind = PRICE
    else:
        return -1
    needed = array_at(_NEEDED.ctypes.data + 32 * kind, 4, np.int64)
    missing = (~memory[TEXTS] & needed[0]) | (~memory[INTS] & needed[1])
    missing |= (~memory[K_TEXTS] & needed[2]) | (~memory[K_INTS] & needed[3])
    return kind if missing == 0 else -1


@kernel(forceinline=True)
def _read_symbol(frame_at, size, memory_at):
    memory = array_at(memory_at, _ANY, np.uint64)
    begin, end = begin_of(memory_at, _S), end_of(memory_at, _S)
    if not 0 < end - begin <= NAME_BYTES <= size - begin:
        return False
    memory[NAME], memory[NAME + 1], memory[NAME + 2] = name_of(frame_at, begin, end)
    return True


@kernel(forceinline=True)
def _read_kline(frame_at, size, memory_at):
    """Read what is no number; False for another interval or symbol, or where nothing says whether the bar is final."""
    memory, names = array_at(memory_at, _ANY, np.int64), array_at(memory_at, _ANY, np.uint64)
    begin, length = begin_of(memory_at, _K_I), end_of(memory_at, _K_I) - begin_of(memory_at, _K_I)
    interval = np.int64(word_at(frame_at, begin, size) & np.uint64(0xFFFFFF))
    if length == 3 and interval == _FIFTEEN_M:
        memory[TIMEFRAME] = 1
    elif length == 2 and (interval & 0xFFFF == _ONE_M or interval & 0xFFFF == _ONE_H):
        memory[TIMEFRAME] = 0 if interval & 0xFFFF == _ONE_M else 2
    else:
        return False
    memory[FINAL] = memory[K_TRUES] & _X_BIT != 0
    if not (memory[K_TRUES] | memory[K_FALSES]) & _X_BIT:
        return False
    begin, end = begin_of(memory_at, _K_S), end_of(memory_at, _K_S)
    if not 0 < end - begin <= NAME_BYTES <= size - begin:
        return False
    a, b, c = name_of(frame_at, begin, end)
    return names[NAME] == a and names[NAME + 1] == b and names[NAME + 2] == c


@kernel(forceinline=True)
def _is_coin_m(frame_at, memory_at):
    """Return whether an event is a row of the other contract family, or may be."""
    memory = array_at(memory_at, _ANY, np.int64)
    if not memory[SEEN] >> ST & 1:
        return False
    begin, end = begin_of(memory_at, _ST), end_of(memory_at, _ST)
    return not memory[INTS] >> ST & 1 or (end == begin + 1 and byte(frame_at, begin) == _COIN_M)


@kernel()
def read_event(frame_at, size, memory_at):
    """Read the event of a frame of `size` bytes into the memory; return its kind, −1: another shape."""
    if not locate(frame_at, size, memory_at):
        return -1
    kind = _kind_of(frame_at, size, memory_at)
    if kind < 0 or not _read_symbol(frame_at, size, memory_at):
        return -1
    wrong, others = read_numbers(frame_at, memory_at, _ASKED.ctypes.data + 8 * NUMBERS * kind, 12 - 4 * kind)
    if others:
        return -1
    if kind == PRICE:
        if _is_coin_m(frame_at, memory_at):
            return -1
        if wrong == _RATE_WRONG and begin_of(memory_at, _R) == end_of(memory_at, _R):
            array_at(memory_at, _ANY, np.float64)[RATE] = math.nan
            return kind
    if wrong or (kind == KLINE and not _read_kline(frame_at, size, memory_at)):
        return -1
    return kind
