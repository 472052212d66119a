"""Market frames of the exact shape that the exchange sends, from bytes to rings. Everything else is refused, unjudged.

`engine.market.parsing` decodes with orjson, and that is the meaning of a frame. `scan` takes the ordinary ones among
those that `kernels.tokens` reads and in whose values no check finds fault: it leaves the same numbers, bit for bit, and
the same counts. A reset sequence, a price or time far away, a revision, a hole between closes are left to the parser.
"""

from __future__ import annotations

import math

import numpy as np

from kernels.addresses import array_at
from kernels.compile import kernel
from kernels.direct import argument, as_number, builtin, data_of, number_of, text_of
from kernels.names import NAME_BYTES, NAME_WORDS, TABLE_SLOTS, find, name_of
from kernels.records import BAR, TIMEFRAME_MS, BarFlag
from kernels.tokens import (
    EVENT,
    INTS,
    K_FALSES,
    K_INTS,
    K_TEXTS,
    K_TRUES,
    SEEN,
    ST,
    TEXTS,
    TOKEN_WORDS,
    K,
    as_word,
    begin_of,
    decimal,
    eight,
    end_of,
    locate,
    whole,
    word_at,
)

REFUSED, DONE, BOOK, OPEN, CLOSED, MARK = -1, 0, 1, 2, 3, 4  # what `scan` did; DONE: nothing is left to tell
SYMBOL, TIMEFRAME, EVENT_MS, NEXT_MS, WHOLE_NUMBERS = range(5)  # whole numbers out
FLOATS = 2  # doubles out: price and funding rate of a mark (NaN: none)
UPDATE_ID, BOOK_MS, BOOK_NS, UPDATES, MARK_MS, MARK_NS, MARK_PRICE, CLOSE, STATE_WORDS = range(9)  # a symbol's state
# A series' state, then what its newest closed bar was: 7 prices and volumes, trades and the newest trade's id.
OPEN_MS, TRADE_ID, CLOSED_MS, KLINE_NS, LAST, SERIES_WORDS = 0, 1, 2, 3, 4, 13
FRAMES, FAULTS, FIRSTS, LAGS, LAG_NS, NEWEST = range(6)  # a connection's memory; NEWEST: by stream
KINDS, MARK_KIND, BOOK_KIND = 5, 3, 4  # streams are numbered kind × symbols + symbol, as `engine.market.routes` does
NOTES, FAULT_KINDS = 7, 16  # as `engine.market.events` numbers them; the three that happen here:
DUPLICATE, CLOSED_BAR, BACKWARD = 0, 1, 12
BOOK_WORDS, BAR_WORDS = 8, BAR.itemsize // 8

# One array of words holds everything, because each array in a call costs as much as scanning thirty bytes.
OUT_INTS = TOKEN_WORDS
OUT_FLOATS = OUT_INTS + WHOLE_NUMBERS
ACCEPTED = OUT_FLOATS + FLOATS  # counts: frames taken by kind, notes, faults
NOTED = ACCEPTED + KINDS
FAULTY = NOTED + NOTES
NEWEST_MS = FAULTY + FAULT_KINDS  # the newest event's time
MAX_PRICE, MAX_QTY, JUMP, JUMP_SQUARED, TAKER_SLACK = range(NEWEST_MS + 1, NEWEST_MS + 6)  # bounds, doubles
MIN_TIME_MS, MAX_TIME_MS, TIME_JUMP_MS, EARLY_MS, RESET_MS = range(NEWEST_MS + 6, NEWEST_MS + 11)  # bounds
SYMBOLS = NEWEST_MS + 11  # their number n
TABLE = -(-(SYMBOLS + 1) // 8) * 8  # of TABLE_SLOTS, by `kernels.names`
BOOKS = TABLE + TABLE_SLOTS  # BOOK_ROW[n]; behind it n × state, 3 n × series, BAR[3 n] of open bars, n × name
SYMBOL_WORDS = BOOK_WORDS + STATE_WORDS + 3 * (SERIES_WORDS + BAR_WORDS) + NAME_WORDS

_MINUTE_MS, _QUARTER_MS, _HOUR_MS = TIMEFRAME_MS
_WS = int(BarFlag.WS)
_ANY = 1 << 40  # the size of an array by address is not looked at


def _keys(letters: str) -> list[int]:
    return [ord(letter) & 63 for letter in letters]  # as `kernels.tokens` numbers them


def _bits(letters: str) -> int:
    return sum(1 << key for key in _keys(letters))


_E_TEXT, _S, _E, _U, _T = (EVENT + key for key in _keys("esEuT"))
_BID, _BID_QTY, _ASK, _ASK_QTY, _PRICE, _RATE = (EVENT + key for key in _keys("bBaApr"))
_K_S, _K_I, _K_OPEN, _K_CLOSE, _K_LAST, _K_TRADES = (K + key for key in _keys("sitTLn"))
_K_O, _K_H, _K_L, _K_C, _K_V, _K_Q, _K_TAKER = (K + key for key in _keys("ohlcvqV"))
_EVENT_TEXTS, _EVENT_INTS, _BOOK_TEXTS, _BOOK_INTS = _bits("es"), _bits("E"), _bits("bBaA"), _bits("u")
_MARK_TEXTS, _MARK_INTS, _KLINE_TEXTS, _KLINE_INTS = _bits("pr"), _bits("T"), _bits("siochlvqV"), _bits("tTLn")
_X_BIT = _bits("x")
# A kind of event by its first 8 bytes and its last 8
_KLINE = as_word(b"kline")
_BOOK_FIRST, _BOOK_LAST = as_word(b"bookTick"), as_word(b"okTicker")
_MARK_FIRST, _MARK_LAST = as_word(b"markPric"), as_word(b"ceUpdate")
_ONE_M, _ONE_H, _FIFTEEN_M = as_word(b"1m"), as_word(b"1h"), as_word(b"15m")


def memory_words(symbols: int) -> int:
    """Return how many words `scan` needs for so many symbols."""
    return BOOKS + symbols * SYMBOL_WORDS


def sections(symbols: int) -> tuple[int, int, int, int, int]:
    """Return where the books, symbols' states, series, open bars and names of so many symbols begin."""
    states = BOOKS + symbols * BOOK_WORDS
    series = states + symbols * STATE_WORDS
    bars = series + 3 * symbols * SERIES_WORDS
    return BOOKS, states, series, bars, bars + 3 * symbols * BAR_WORDS


@kernel()
def _symbol_of(frame_at, size, memory_at):
    """Return the index of the event's symbol, or −1."""
    begin, end = begin_of(memory_at, _S), end_of(memory_at, _S)
    if not 0 < end - begin <= NAME_BYTES <= size - begin:
        return -1
    a, b, c = name_of(frame_at, begin, end)
    names = BOOKS + array_at(memory_at, _ANY, np.int64)[SYMBOLS] * (SYMBOL_WORDS - NAME_WORDS)
    return find(memory_at + 8 * TABLE, memory_at + 8 * names, a, b, c)


@kernel()
def _far(last, price, memory_at):
    values = array_at(memory_at, _ANY, np.float64)
    return last != 0.0 and not (last < price * values[JUMP] < last * values[JUMP_SQUARED])


@kernel()
def _time_fits(event_ms, memory_at):
    """Return whether an event's time needs no confirmation by others, and remember the newest."""
    memory = array_at(memory_at, _ANY, np.int64)
    if event_ms <= memory[MIN_TIME_MS] or event_ms >= memory[MAX_TIME_MS]:
        return False
    newest_ms = memory[NEWEST_MS]
    if event_ms > newest_ms:
        if newest_ms != 0 and event_ms > newest_ms + memory[TIME_JUMP_MS]:
            return False
        memory[NEWEST_MS] = event_ms
    return True


@kernel()
def _first(memory_at, source_at, kind, stream, sequence):
    """Count a frame that no connection delivered before."""
    memory = array_at(memory_at, _ANY, np.int64)
    source = array_at(source_at, _ANY, np.int64)
    source[NEWEST + stream] = sequence
    source[FIRSTS] += 1
    memory[ACCEPTED + kind] += 1


@kernel()
def _second(memory_at, source_at, stream, sequence, recv_ns, first_ns):
    """Count a frame that another connection (or this one) delivered before, at first_ns (0: not known)."""
    memory = array_at(memory_at, _ANY, np.int64)
    source = array_at(source_at, _ANY, np.int64)
    if sequence < source[NEWEST + stream]:
        memory[FAULTY + BACKWARD] += 1
        source[FAULTS] += 1
        return DONE
    source[NEWEST + stream] = sequence
    memory[NOTED + DUPLICATE] += 1
    if first_ns:
        source[LAGS] += 1
        source[LAG_NS] += recv_ns - first_ns
    return DONE


@kernel()
def _take_book(frame_at, symbol, event_ms, recv_ns, memory_at, source_at):
    memory = array_at(memory_at, _ANY, np.int64)
    values = array_at(memory_at, _ANY, np.float64)
    if memory[TEXTS] & _BOOK_TEXTS != _BOOK_TEXTS or memory[INTS] & _BOOK_INTS != _BOOK_INTS:
        return REFUSED
    update_id = whole(frame_at, memory_at, _U)
    known = BOOKS + memory[SYMBOLS] * BOOK_WORDS + symbol * STATE_WORDS
    book, stream = BOOKS + symbol * BOOK_WORDS, BOOK_KIND * memory[SYMBOLS] + symbol
    if update_id <= memory[known + UPDATE_ID]:
        if update_id < memory[known + UPDATE_ID] and event_ms > memory[known + BOOK_MS] + memory[RESET_MS]:
            return REFUSED
        first_ns = memory[known + BOOK_NS] if update_id == memory[known + UPDATE_ID] else 0
        return _second(memory_at, source_at, stream, update_id, recv_ns, first_ns)
    if event_ms < memory[known + BOOK_MS]:
        return REFUSED
    bid, bid_qty = decimal(frame_at, memory_at, _BID), decimal(frame_at, memory_at, _BID_QTY)
    ask, ask_qty = decimal(frame_at, memory_at, _ASK), decimal(frame_at, memory_at, _ASK_QTY)
    if not (bid > 0.0 and bid < ask and ask < values[MAX_PRICE]):
        return REFUSED
    if not (0.0 <= bid_qty < values[MAX_QTY] and 0.0 <= ask_qty < values[MAX_QTY]):
        return REFUSED
    if _far(values[book], bid, memory_at) or not _time_fits(event_ms, memory_at):
        return REFUSED
    updates = memory[known + UPDATES] + 1
    memory[known + UPDATE_ID], memory[known + BOOK_MS] = update_id, event_ms
    memory[known + BOOK_NS], memory[known + UPDATES] = recv_ns, updates
    values[book], values[book + 1], values[book + 2], values[book + 3] = bid, bid_qty, ask, ask_qty
    memory[book + 4], memory[book + 5], memory[book + 6], memory[book + 7] = update_id, event_ms, recv_ns, updates
    _first(memory_at, source_at, BOOK_KIND, stream, update_id)
    return BOOK


@kernel()
def _interval(frame_at, size, memory_at):
    """Return the timeframe that `i` of a kline names, or −1."""
    begin, end = begin_of(memory_at, _K_I), end_of(memory_at, _K_I)
    word = np.int64(word_at(frame_at, begin, size) & np.uint64(0xFFFFFF))
    if end - begin == 3:
        return 1 if word == _FIFTEEN_M else -1
    word &= 0xFFFF
    return (0 if word == _ONE_M else (2 if word == _ONE_H else -1)) if end - begin == 2 else -1


@kernel()
def _kline_shape(frame_at, size, memory_at):
    """Return whether a kline's fields are there with the right types, and both symbols are the same."""
    memory = array_at(memory_at, _ANY, np.int64)
    if memory[K_TEXTS] & _KLINE_TEXTS != _KLINE_TEXTS or memory[K_INTS] & _KLINE_INTS != _KLINE_INTS:
        return False
    begin, end, inner = begin_of(memory_at, _S), end_of(memory_at, _S), begin_of(memory_at, _K_S)
    if end_of(memory_at, _K_S) - inner != end - begin or inner + NAME_BYTES > size:
        return False
    a, b, c = name_of(frame_at, begin, end)
    x, y, z = name_of(frame_at, inner, inner + end - begin)
    return a == x and b == y and c == z


@kernel()
def _read_bar(frame_at, memory_at, at):
    """Write the values of a kline to the 7 words from `at` on; False if one is beyond its bounds."""
    values = array_at(memory_at, _ANY, np.float64)
    o, h = decimal(frame_at, memory_at, _K_O), decimal(frame_at, memory_at, _K_H)
    low, c = decimal(frame_at, memory_at, _K_L), decimal(frame_at, memory_at, _K_C)
    v, q = decimal(frame_at, memory_at, _K_V), decimal(frame_at, memory_at, _K_Q)
    taker = decimal(frame_at, memory_at, _K_TAKER)
    values[at], values[at + 1], values[at + 2], values[at + 3] = o, h, low, c
    values[at + 4], values[at + 5], values[at + 6] = v, q, taker
    if not (low > 0.0 and h < values[MAX_PRICE] and low <= o <= h and low <= c <= h):
        return False
    return 0.0 <= v < values[MAX_QTY] and 0.0 <= q < values[MAX_QTY] and 0.0 <= taker <= v * values[TAKER_SLACK]


@kernel()
def _same_bar(memory_at, series, scratch, trades, trade_id):
    """Return whether a closing frame has the values of the newest closed bar."""
    memory = array_at(memory_at, _ANY, np.int64)
    values = array_at(memory_at, _ANY, np.float64)
    same = values[series + LAST + 7] == trades and memory[series + LAST + 8] == trade_id
    for k in range(7):
        same &= values[series + LAST + k] == values[scratch + k]
    return same


@kernel()
def _write_bar(memory_at, bar, scratch, open_ms, trades, trade_id, event_ms):
    memory = array_at(memory_at, _ANY, np.int64)
    values = array_at(memory_at, _ANY, np.float64)
    memory[bar] = open_ms
    for k in range(7):
        values[bar + 1 + k] = values[scratch + k]
    values[bar + 8] = trades
    memory[bar + 9], memory[bar + 10], memory[bar + 11] = trade_id, event_ms, _WS


@kernel()
def _take_kline(frame_at, size, symbol, event_ms, recv_ns, memory_at, source_at):
    memory = array_at(memory_at, _ANY, np.int64)
    values = array_at(memory_at, _ANY, np.float64)
    source = array_at(source_at, _ANY, np.int64)
    if not _kline_shape(frame_at, size, memory_at):
        return REFUSED
    timeframe = _interval(frame_at, size, memory_at)
    closed = memory[K_TRUES] & _X_BIT != 0
    if timeframe < 0 or not (closed or memory[K_FALSES] & _X_BIT):
        return REFUSED
    open_ms, trade_id = whole(frame_at, memory_at, _K_OPEN), whole(frame_at, memory_at, _K_LAST)
    trades = whole(frame_at, memory_at, _K_TRADES)
    count = memory[SYMBOLS]
    stream, states = timeframe * count + symbol, BOOKS + count * BOOK_WORDS
    series = states + count * STATE_WORDS + (symbol * 3 + timeframe) * SERIES_WORDS
    newest, last = memory[series + OPEN_MS], memory[series + CLOSED_MS]
    newer = closed or trade_id > memory[series + TRADE_ID]
    if not closed and not (open_ms > newest or (open_ms == newest and last < open_ms and newer)):
        if event_ms >= source[NEWEST + stream] and open_ms <= last:
            source[NEWEST + stream] = event_ms
            memory[NOTED + CLOSED_BAR] += 1
            return DONE
        first_ns = memory[series + KLINE_NS] if open_ms == newest else 0
        return _second(memory_at, source_at, stream, event_ms, recv_ns, first_ns)
    step_ms = _MINUTE_MS if timeframe == 0 else (_QUARTER_MS if timeframe == 1 else _HOUR_MS)
    if open_ms < 0 or open_ms >= memory[MAX_TIME_MS] or open_ms % step_ms or trades < 0 or trades >= values[MAX_QTY]:
        return REFUSED
    if whole(frame_at, memory_at, _K_CLOSE) != open_ms + step_ms - 1:
        return REFUSED
    if open_ms > event_ms + memory[EARLY_MS] or (closed and event_ms < open_ms + step_ms - 1):
        return REFUSED
    scratch = 0  # words of the tokens' memory: of keys that are used no more, or never were
    if not _read_bar(frame_at, memory_at, scratch):
        return REFUSED
    close = states + symbol * STATE_WORDS + CLOSE
    if _far(values[close], values[scratch + 3], memory_at) or not _time_fits(event_ms, memory_at):
        return REFUSED
    if closed and open_ms == last and _same_bar(memory_at, series, scratch, trades, trade_id):
        return _second(memory_at, source_at, stream, event_ms, recv_ns, memory[series + KLINE_NS])
    if closed and (open_ms <= last or (last >= 0 and open_ms != last + step_ms) or open_ms < newest):
        return REFUSED
    bar = states + count * STATE_WORDS + 3 * count * SERIES_WORDS + (symbol * 3 + timeframe) * BAR_WORDS
    _write_bar(memory_at, bar, scratch, open_ms, trades, trade_id, event_ms)
    memory[series + OPEN_MS], memory[series + TRADE_ID], memory[series + KLINE_NS] = open_ms, trade_id, recv_ns
    values[close] = values[scratch + 3]
    _first(memory_at, source_at, timeframe, stream, max(event_ms, source[NEWEST + stream]))
    memory[OUT_INTS + TIMEFRAME] = timeframe
    if not closed:
        return OPEN
    memory[series + CLOSED_MS], values[series + LAST + 7], memory[series + LAST + 8] = open_ms, trades, trade_id
    for k in range(7):
        values[series + LAST + k] = values[scratch + k]
    return CLOSED


@kernel()
def _take_mark(frame_at, symbol, event_ms, recv_ns, memory_at, source_at):
    memory = array_at(memory_at, _ANY, np.int64)
    values = array_at(memory_at, _ANY, np.float64)
    state = BOOKS + memory[SYMBOLS] * BOOK_WORDS + symbol * STATE_WORDS
    stream = MARK_KIND * memory[SYMBOLS] + symbol
    if memory[TEXTS] & _MARK_TEXTS != _MARK_TEXTS or memory[INTS] & _MARK_INTS != _MARK_INTS:
        return REFUSED
    if memory[SEEN] >> ST & 1 and not (memory[INTS] >> ST & 1 and whole(frame_at, memory_at, EVENT + ST) != 2):
        return REFUSED  # a row of the other contract family, or a stranger thing
    price, none = decimal(frame_at, memory_at, _PRICE), begin_of(memory_at, _RATE) == end_of(memory_at, _RATE)
    rate = 0.0 if none else decimal(frame_at, memory_at, _RATE)
    next_ms = whole(frame_at, memory_at, _T)
    if not (0.0 < price < values[MAX_PRICE] and -1.0 < rate < 1.0 and 0 <= next_ms < memory[MAX_TIME_MS]):
        return REFUSED
    newest = memory[state + MARK_MS]
    if event_ms <= newest:
        first_ns = memory[state + MARK_NS] if event_ms == newest else 0
        return _second(memory_at, source_at, stream, event_ms, recv_ns, first_ns)
    if _far(values[state + MARK_PRICE], price, memory_at) or not _time_fits(event_ms, memory_at):
        return REFUSED
    values[state + MARK_PRICE], memory[state + MARK_MS], memory[state + MARK_NS] = price, event_ms, recv_ns
    _first(memory_at, source_at, MARK_KIND, stream, event_ms)
    memory[OUT_INTS + NEXT_MS] = next_ms
    values[OUT_FLOATS], values[OUT_FLOATS + 1] = price, math.nan if none else rate
    return MARK


@kernel()
def scan_at(frame_at, size, recv_ns, memory_at, source_at):
    """Take one frame of `size` bytes at an address; see `scan`."""
    memory = array_at(memory_at, _ANY, np.int64)
    source = array_at(source_at, _ANY, np.int64)
    if not locate(frame_at, size, memory_at):
        return REFUSED
    if memory[TEXTS] & _EVENT_TEXTS != _EVENT_TEXTS or memory[INTS] & _EVENT_INTS != _EVENT_INTS:
        return REFUSED
    symbol, event_ms = _symbol_of(frame_at, size, memory_at), whole(frame_at, memory_at, _E)
    if symbol < 0:
        return REFUSED
    memory[OUT_INTS + SYMBOL], memory[OUT_INTS + EVENT_MS] = symbol, event_ms
    begin, end = begin_of(memory_at, _E_TEXT), end_of(memory_at, _E_TEXT)
    length, first = end - begin, np.int64(word_at(frame_at, begin, size))
    last = np.int64(eight(frame_at, max(end - 8, 0)))
    found = REFUSED
    if length == 10 and first == _BOOK_FIRST and last == _BOOK_LAST:
        found = _take_book(frame_at, symbol, event_ms, recv_ns, memory_at, source_at)
    elif length == 5 and first & 0xFFFFFFFFFF == _KLINE:
        found = _take_kline(frame_at, size, symbol, event_ms, recv_ns, memory_at, source_at)
    elif length == 15 and first == _MARK_FIRST and last == _MARK_LAST:
        found = _take_mark(frame_at, symbol, event_ms, recv_ns, memory_at, source_at)
    if found != REFUSED:
        source[FRAMES] += 1
    return found


@builtin
def scan(self, arguments, count):
    """Take one frame; returns what it did. Arguments: frame bytes, recv_ns (when it came), memory, source.

    memory int64[memory_words(n)], laid out as above; source int64[NEWEST + n × KINDS], of the connection. BOOK, OPEN,
    CLOSED, MARK: the frame was taken; its symbol, timeframe, event time, price and rate are out. DONE: it was counted.
    REFUSED: nothing was changed but scratch, and the newest event's time if the parser will take it too.
    """
    frame_at, size = text_of(argument(arguments, 0))
    recv_ns, memory, source = argument(arguments, 1), argument(arguments, 2), argument(arguments, 3)
    return as_number(scan_at(frame_at, size, number_of(recv_ns), data_of(memory), data_of(source)))
