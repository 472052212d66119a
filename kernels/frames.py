"""Market frames of the exact shape that the exchange sends, from bytes to rings. Everything else is refused, unjudged.

`engine.market.parsing` decodes with orjson, and that is the meaning of a frame. `scan` takes the ordinary ones among
those that `kernels.tokens` reads and in whose values no check finds fault: it leaves the same numbers, bit for bit, and
the same counts. A reset sequence, a price or time far away, a revision, a hole between closes are left to the parser.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from kernels.addresses import array_at, bytes_at
from kernels.compile import kernel
from kernels.records import BAR, TIMEFRAME_MS, BarFlag
from kernels.tokens import (
    FALSE,
    INT,
    SEEN,
    ST,
    TEXT,
    TOKEN_WORDS,
    TRUE,
    as_word,
    decimal,
    has,
    locate,
    span_of,
    whole,
    word_at,
)

REFUSED, DONE, BOOK, OPEN, CLOSED, MARK = -1, 0, 1, 2, 3, 4  # what `scan` did; DONE: nothing is left to tell
SYMBOL, TIMEFRAME, EVENT_MS, NEXT_MS, INTS = range(5)  # whole numbers out, of INTS
FLOATS = 2  # doubles out: price and funding rate of a mark (NaN: none)
UPDATE_ID, BOOK_MS, BOOK_NS, UPDATES, MARK_MS, MARK_NS, MARK_PRICE, CLOSE, STATE_WORDS = range(9)  # a symbol's state
# A series' state, then what its newest closed bar was: 7 prices and volumes, trades and the newest trade's id.
OPEN_MS, TRADE_ID, CLOSED_MS, KLINE_NS, LAST, SERIES_WORDS = 0, 1, 2, 3, 4, 13
FRAMES, FAULTS, FIRSTS, LAGS, LAG_NS, NEWEST = range(6)  # a connection's memory; NEWEST: by stream
KINDS, MARK_KIND, BOOK_KIND = 5, 3, 4  # streams are numbered kind × symbols + symbol, as `engine.market.routes` does
NOTES, FAULT_KINDS = 7, 16  # as `engine.market.events` numbers them; the three that happen here:
DUPLICATE, CLOSED_BAR, BACKWARD = 0, 1, 12
NAME_BYTES, TABLE_SLOTS = 24, 4_096  # four times the symbols that an engine may have, so that probes stay short
BOOK_WORDS, BAR_WORDS, NAME_WORDS = 8, BAR.itemsize // 8, 3

# One array of words holds everything, because each array in a call costs as much as scanning thirty bytes.
OUT_INTS = TOKEN_WORDS
OUT_FLOATS = OUT_INTS + INTS
ACCEPTED = OUT_FLOATS + FLOATS  # counts: frames taken by kind, notes, faults
NOTED = ACCEPTED + KINDS
FAULTY = NOTED + NOTES
NEWEST_MS = FAULTY + FAULT_KINDS  # the newest event's time
MAX_PRICE, MAX_QTY, JUMP, JUMP_SQUARED, TAKER_SLACK = range(NEWEST_MS + 1, NEWEST_MS + 6)  # bounds, doubles
MIN_TIME_MS, MAX_TIME_MS, TIME_JUMP_MS, EARLY_MS, RESET_MS = range(NEWEST_MS + 6, NEWEST_MS + 11)  # bounds
SYMBOLS = NEWEST_MS + 11  # their number n
TABLE = -(-(SYMBOLS + 1) // 8) * 8  # TABLE_SLOTS: index of a symbol, −1: empty
BOOKS = TABLE + TABLE_SLOTS  # BOOK_ROW[n]; behind it n × state, 3 n × series, BAR[3 n] of open bars, n × name
SYMBOL_WORDS = BOOK_WORDS + STATE_WORDS + 3 * (SERIES_WORDS + BAR_WORDS) + NAME_WORDS

_BYTES = numba.types.Bytes(numba.uint8, 1, "C", readonly=True)
_MEMORY = numba.int64[::1]
_MINUTE_MS, _QUARTER_MS, _HOUR_MS = TIMEFRAME_MS
_WS = int(BarFlag.WS)
_ANY = 1 << 40  # the size of an array by address is not looked at
_KLINE_TEXT = as_word(b"kline")
_BOOK_TICKER, _ICKER = as_word(b"bookTick"), as_word(b"er")
_MARK_PRICE, _UPDATE = as_word(b"markPric"), as_word(b"eUpdate")


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
def _mixed(a, b, c):
    h = (np.uint64(a) ^ np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(29)) ^ np.uint64(b)) * np.uint64(0xC4CEB9FE1A85EC53)
    h = (h ^ (h >> np.uint64(29)) ^ np.uint64(c)) * np.uint64(0xFF51AFD7ED558CCD)
    return np.int64((h >> np.uint64(32)) % np.uint64(TABLE_SLOTS))


@kernel()
def _names(memory_at):
    memory = array_at(memory_at, _ANY, np.int64)
    return BOOKS + memory[SYMBOLS] * (SYMBOL_WORDS - NAME_WORDS)


@kernel(numba.void(_MEMORY, numba.int64))
def index_names(memory, count):
    """Fill the table from the `count` names behind the books; once, at start."""
    memory[SYMBOLS] = count
    memory[TABLE : TABLE + TABLE_SLOTS] = -1
    for s in range(count):
        at = _names(memory.ctypes.data) + s * NAME_WORDS
        slot = _mixed(memory[at], memory[at + 1], memory[at + 2])
        while memory[TABLE + slot] >= 0:
            slot = (slot + 1) % TABLE_SLOTS
        memory[TABLE + slot] = s


@kernel()
def _find(frame_at, start, end, memory_at):
    """Return the index of the symbol frame[start:end], or −1."""
    memory = array_at(memory_at, _ANY, np.int64)
    if end - start > NAME_BYTES:
        return -1
    a, b, c = word_at(frame_at, start, end), word_at(frame_at, start + 8, end), word_at(frame_at, start + 16, end)
    slot = _mixed(a, b, c)
    while memory[TABLE + slot] >= 0:
        at = _names(memory_at) + memory[TABLE + slot] * NAME_WORDS
        if memory[at] == a and memory[at + 1] == b and memory[at + 2] == c:
            return memory[TABLE + slot]
        slot = (slot + 1) % TABLE_SLOTS
    return -1


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
    if not (has(memory_at, 0, 98, TEXT) and has(memory_at, 0, 66, TEXT) and has(memory_at, 0, 97, TEXT)):  # b B a
        return REFUSED
    if not (has(memory_at, 0, 65, TEXT) and has(memory_at, 0, 117, INT)):  # A u
        return REFUSED
    update_id = whole(memory_at, 0, 117)
    known = BOOKS + memory[SYMBOLS] * BOOK_WORDS + symbol * STATE_WORDS
    book, stream = BOOKS + symbol * BOOK_WORDS, BOOK_KIND * memory[SYMBOLS] + symbol
    if update_id <= memory[known + UPDATE_ID]:
        if update_id < memory[known + UPDATE_ID] and event_ms > memory[known + BOOK_MS] + memory[RESET_MS]:
            return REFUSED
        first_ns = memory[known + BOOK_NS] if update_id == memory[known + UPDATE_ID] else 0
        return _second(memory_at, source_at, stream, update_id, recv_ns, first_ns)
    if event_ms < memory[known + BOOK_MS]:
        return REFUSED
    bid, bid_qty = decimal(frame_at, memory_at, 0, 98), decimal(frame_at, memory_at, 0, 66)
    ask, ask_qty = decimal(frame_at, memory_at, 0, 97), decimal(frame_at, memory_at, 0, 65)
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
def _interval(frame_at, memory_at):
    """Return the timeframe that `i` of a kline names, or −1."""
    frame = array_at(frame_at, _ANY, np.uint8)
    memory = array_at(memory_at, _ANY, np.int64)
    span = span_of(1, 105)
    at, length = memory[span], memory[span + 1] - memory[span]
    if length == 2 and frame[at] == 49:
        return 0 if frame[at + 1] == 109 else (2 if frame[at + 1] == 104 else -1)
    return 1 if length == 3 and frame[at] == 49 and frame[at + 1] == 53 and frame[at + 2] == 109 else -1


@kernel()
def _kline_shape(frame_at, memory_at):
    """Return whether a kline's fields are there with the right types, and both symbols are the same."""
    frame = array_at(frame_at, _ANY, np.uint8)
    memory = array_at(memory_at, _ANY, np.int64)
    for code in (115, 105, 111, 99, 104, 108, 118, 113, 86):  # s i o c h l v q V
        if not has(memory_at, 1, code, TEXT):
            return False
    for code in (116, 84, 76, 110):  # t T L n
        if not has(memory_at, 1, code, INT):
            return False
    outer, inner = span_of(0, 115), span_of(1, 115)
    length = memory[outer + 1] - memory[outer]
    if memory[inner + 1] - memory[inner] != length:
        return False
    same = True
    for k in range(length):
        same &= frame[memory[outer] + k] == frame[memory[inner] + k]
    return same


@kernel()
def _read_bar(frame_at, memory_at, at):
    """Write the values of a kline to the 7 words from `at` on; False if one is beyond its bounds."""
    values = array_at(memory_at, _ANY, np.float64)
    o, h = decimal(frame_at, memory_at, 1, 111), decimal(frame_at, memory_at, 1, 104)
    low, c = decimal(frame_at, memory_at, 1, 108), decimal(frame_at, memory_at, 1, 99)
    v, q = decimal(frame_at, memory_at, 1, 118), decimal(frame_at, memory_at, 1, 113)
    taker = decimal(frame_at, memory_at, 1, 86)
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
def _take_kline(frame_at, symbol, event_ms, recv_ns, memory_at, source_at):
    memory = array_at(memory_at, _ANY, np.int64)
    values = array_at(memory_at, _ANY, np.float64)
    source = array_at(source_at, _ANY, np.int64)
    if not _kline_shape(frame_at, memory_at):
        return REFUSED
    timeframe = _interval(frame_at, memory_at)
    closed = has(memory_at, 1, 120, TRUE)
    if timeframe < 0 or not (closed or has(memory_at, 1, 120, FALSE)):
        return REFUSED
    open_ms, trade_id, trades = whole(memory_at, 1, 116), whole(memory_at, 1, 76), whole(memory_at, 1, 110)
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
    if whole(memory_at, 1, 84) != open_ms + step_ms - 1:
        return REFUSED
    if open_ms > event_ms + memory[EARLY_MS] or (closed and event_ms < open_ms + step_ms - 1):
        return REFUSED
    scratch = 0  # words of the tokens' memory where keys are noted that no kline is asked for
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
    if not (has(memory_at, 0, 112, TEXT) and has(memory_at, 0, 114, TEXT) and has(memory_at, 0, 84, INT)):  # p r T
        return REFUSED
    if memory[SEEN] >> ST & 1 and not (has(memory_at, 0, ST, INT) and whole(memory_at, 0, ST) != 2):
        return REFUSED  # a row of the other contract family, or a stranger thing
    price, none = decimal(frame_at, memory_at, 0, 112), memory[span_of(0, 114)] == memory[span_of(0, 114) + 1]
    rate = 0.0 if none else decimal(frame_at, memory_at, 0, 114)
    next_ms = whole(memory_at, 0, 84)
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


@kernel(numba.int64(_BYTES, numba.int64, _MEMORY, _MEMORY))
def scan(frame, recv_ns, memory, source):
    """Take one frame that came at recv_ns; returns what it did.

    memory int64[memory_words(n)], laid out as above; source int64[NEWEST + n × KINDS], of the connection. BOOK, OPEN,
    CLOSED, MARK: the frame was taken; its symbol, timeframe, event time, price and rate are out. DONE: it was counted.
    REFUSED: nothing was changed but scratch, and the newest event's time if the parser will take it too.
    """
    frame_at, memory_at, source_at = bytes_at(frame), memory.ctypes.data, source.ctypes.data
    if not locate(frame_at, len(frame), memory_at):
        return REFUSED
    if not (has(memory_at, 0, 101, TEXT) and has(memory_at, 0, 115, TEXT) and has(memory_at, 0, 69, INT)):  # e s E
        return REFUSED
    name, kind = span_of(0, 115), span_of(0, 101)
    symbol, event_ms = _find(frame_at, memory[name], memory[name + 1], memory_at), whole(memory_at, 0, 69)
    if symbol < 0:
        return REFUSED
    memory[OUT_INTS + SYMBOL], memory[OUT_INTS + EVENT_MS] = symbol, event_ms
    start, end = memory[kind], memory[kind + 1]
    length, word, rest = end - start, word_at(frame_at, start, end), word_at(frame_at, start + 8, end)
    found = REFUSED
    if length == 10 and word == _BOOK_TICKER and rest == _ICKER:
        found = _take_book(frame_at, symbol, event_ms, recv_ns, memory_at, source_at)
    elif length == 5 and word == _KLINE_TEXT:
        found = _take_kline(frame_at, symbol, event_ms, recv_ns, memory_at, source_at)
    elif length == 15 and word == _MARK_PRICE and rest == _UPDATE:
        found = _take_mark(frame_at, symbol, event_ms, recv_ns, memory_at, source_at)
    if found != REFUSED:
        source[FRAMES] += 1
    return found
