"""A byte scanner for market frames of the exact shape that the exchange sends. Everything else is refused, unjudged.

`engine.market.wire` decodes with orjson, and that is the meaning of a frame. The scanner takes the frames that are
ASCII, without spaces, escapes or exponents, with numbers short enough to be exact, and in whose values no check of the
decoder finds fault; it gives the same numbers, bit for bit: a mantissa of at most 2^53 over a power of ten of at most
10^22 is divided once, which IEEE rounds as the decimal demands.
"""

from __future__ import annotations

import math

import numba
import numpy as np

from kernels.compile import kernel
from kernels.records import TIMEFRAME_MS

REFUSED, BOOK, COPY, KLINE, MARK = -1, 0, 1, 2, 3  # what `scan` found
SYMBOL, EVENT_MS, SEQUENCE, TIMEFRAME, OPEN_MS, CLOSED, TRADES, NEXT_MS = range(8)  # ints out; SEQUENCE: u or L
INTS, FLOATS = 8, 8  # floats out: o h l c v q V of a kline; price and rate of a mark (NaN: none)
UPDATE_ID, BOOK_MS, BOOK_NS, UPDATES = range(4)  # a symbol's book state
NAME_BYTES, TABLE_SLOTS = 24, 4_096  # four times the symbols that an engine may have, so that probes stay short
CODES, FIELDS = 128, 3  # keys by their one byte; start, end and kind of a value

# One array of words holds everything, because each array in a call costs as much as scanning thirty bytes.
SPANS = 0  # 2 levels × CODES × FIELDS: scratch
SEEN = SPANS + 2 * CODES * FIELDS  # 2 levels × 2: scratch, which keys are there
OUT_INTS = SEEN + 4
OUT_FLOATS = OUT_INTS + INTS
NEWEST_MS = OUT_FLOATS + FLOATS  # the newest event's time
MAX_PRICE, MAX_QTY, JUMP, JUMP_SQUARED, TAKER_SLACK = range(NEWEST_MS + 1, NEWEST_MS + 6)  # bounds, doubles
MIN_TIME_MS, MAX_TIME_MS, TIME_JUMP_MS, EARLY_MS, RESET_MS = range(NEWEST_MS + 6, NEWEST_MS + 11)  # bounds
SYMBOLS = NEWEST_MS + 11  # their number n
TABLE = -(-(SYMBOLS + 1) // 8) * 8  # TABLE_SLOTS: index of a symbol, −1: empty
BOOKS = TABLE + TABLE_SLOTS  # BOOK_ROW[n]
BOOK_WORDS, STATE_WORDS, NAME_WORDS = 8, 4, 3  # behind the books: n × state, n × name

_TEXT, _INT, _TRUE, _FALSE, _NULL = range(5)
_OUTER = 2  # the level of {"stream": …, "data": …}
_ST = 1  # the code of the key "st"
_QUOTE, _COLON, _COMMA, _OPEN, _CLOSE, _MINUS, _DOT, _BACKSLASH, _ZERO = 34, 58, 44, 123, 125, 45, 46, 92, 48
_MAX_EXACT = np.uint64(1) << np.uint64(53)
_MAX_DIGITS = 18

_POWERS = 10.0 ** np.arange(23)
_BYTES = numba.types.Bytes(numba.uint8, 1, "C", readonly=True)
_MEMORY = numba.int64[::1]
_MINUTE_MS, _QUARTER_MS, _HOUR_MS = TIMEFRAME_MS


def memory_words(symbols: int) -> int:
    """Return how many words `scan` needs for so many symbols."""
    return BOOKS + symbols * (BOOK_WORDS + STATE_WORDS + NAME_WORDS)


@kernel()
def _mixed(a, b, c):
    h = (np.uint64(a) ^ np.uint64(0x9E3779B97F4A7C15)) * np.uint64(0xFF51AFD7ED558CCD)
    h = (h ^ (h >> np.uint64(29)) ^ np.uint64(b)) * np.uint64(0xC4CEB9FE1A85EC53)
    h = (h ^ (h >> np.uint64(29)) ^ np.uint64(c)) * np.uint64(0xFF51AFD7ED558CCD)
    return np.int64((h >> np.uint64(32)) % np.uint64(TABLE_SLOTS))


@kernel(numba.void(_MEMORY, numba.int64))
def index_names(memory, count):
    """Fill the table from the `count` names behind the books; once, at start."""
    memory[SYMBOLS] = count
    names = BOOKS + count * (BOOK_WORDS + STATE_WORDS)
    memory[TABLE : TABLE + TABLE_SLOTS] = -1
    for s in range(count):
        at = names + s * NAME_WORDS
        slot = _mixed(memory[at], memory[at + 1], memory[at + 2])
        while memory[TABLE + slot] >= 0:
            slot = (slot + 1) % TABLE_SLOTS
        memory[TABLE + slot] = s


@kernel()
def _word(frame, start, end):
    """Return up to 8 bytes as a little-endian word."""
    word = np.uint64(0)
    for k in range(start, min(end, start + 8)):
        word |= np.uint64(frame[k]) << np.uint64(8 * (k - start))
    return np.int64(word)


@kernel()
def _find(frame, start, end, memory):
    """Return the index of the symbol frame[start:end], or −1."""
    if end - start > NAME_BYTES:
        return -1
    a, b, c = _word(frame, start, end), _word(frame, start + 8, end), _word(frame, start + 16, end)
    names = BOOKS + memory[SYMBOLS] * (BOOK_WORDS + STATE_WORDS)
    slot = _mixed(a, b, c)
    while memory[TABLE + slot] >= 0:
        at = names + memory[TABLE + slot] * NAME_WORDS
        if memory[at] == a and memory[at + 1] == b and memory[at + 2] == c:
            return memory[TABLE + slot]
        slot = (slot + 1) % TABLE_SLOTS
    return -1


def _as_word(text: bytes) -> int:
    return int.from_bytes(text[:8].ljust(8, b"\0"), "little")


_DATA, _KLINE_TEXT = _as_word(b"data"), _as_word(b"kline")
_BOOK_TICKER, _ICKER = _as_word(b"bookTick"), _as_word(b"er")
_MARK_PRICE, _UPDATE = _as_word(b"markPric"), _as_word(b"eUpdate")
_TRUE_TEXT, _FALS, _NULL_TEXT = _as_word(b"true"), _as_word(b"fals"), _as_word(b"null")


@kernel()
def _string_end(frame, at, size):
    """Return where the string that begins at `at` (behind its quote) ends, or −1: not plain ASCII, or cut off."""
    while at < size:
        c = frame[at]
        if c == _QUOTE:
            return at
        if c < 32 or c > 126 or c == _BACKSLASH:
            return -1
        at += 1
    return -1


@kernel()
def _scalar(frame, at, size, memory, span):
    """Note the value at `at` in three words from `span` on; return the place behind it, or −1: no scalar."""
    c = frame[at]
    if c == _QUOTE:
        end = _string_end(frame, at + 1, size)
        memory[span], memory[span + 1], memory[span + 2] = at + 1, end, _TEXT
        return end + 1 if end >= 0 else -1
    memory[span] = at
    if c == _MINUS or 48 <= c <= 57:
        end = at + 1
        while end < size and 48 <= frame[end] <= 57:
            end += 1
        first = at + 1 if c == _MINUS else at
        digits = end - first
        if digits < 1 or digits > _MAX_DIGITS or (digits > 1 and frame[first] == _ZERO):
            return -1
        memory[span + 1], memory[span + 2] = end, _INT
        return end
    if at + 5 >= size:
        return -1
    word = _word(frame, at, at + 4)
    kind = _TRUE if word == _TRUE_TEXT else (_NULL if word == _NULL_TEXT else _FALSE)
    end = at + 4
    if kind == _FALSE:
        if word != _FALS or frame[end] != 101:
            return -1
        end += 1
    memory[span + 1], memory[span + 2] = end, kind
    return end


@kernel()
def _locate(frame, size, memory):
    """Note where the values of the event's keys are: level 0 of the event itself, 1 of its "k"; False: another shape.

    Bit `code` % 64 of word SEEN + 2 × level + code // 64 is set for a key that is there.
    """
    memory[SEEN] = memory[SEEN + 1] = memory[SEEN + 2] = memory[SEEN + 3] = 0
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
        end = _string_end(frame, start, size)
        if end < 0 or end + 2 >= size or frame[end + 1] != _COLON:
            return False
        at = end + 2
        length = end - start
        code = np.int64(frame[start]) if length == 1 else 0
        if length == 2 and frame[start] == 115 and frame[start + 1] == 116:
            code = _ST
        if frame[at] == _OPEN:
            if level == 0 and depth == 1 and not wrapped and length == 4 and _word(frame, start, end) == _DATA:
                wrapped = 1  # a wrapped event: what was seen so far belongs to the wrapper
                memory[SEEN] = memory[SEEN + 1] = memory[SEEN + 2] = memory[SEEN + 3] = 0
            elif level == 0 and length == 1 and frame[start] == 107 and not memory[SEEN + 2] and not memory[SEEN + 3]:
                level = 1
            else:
                return False
            depth += 1
            at += 1
            expect_key = True
            continue
        if length == 4 and _word(frame, start, end) == _DATA:
            return False
        inner = 0 if level == _OUTER else level
        if level == _OUTER:
            code = 0
        at = _scalar(frame, at, size, memory, SPANS + (inner * CODES + code) * FIELDS)
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
def _span(level, code):
    return SPANS + (level * CODES + code) * FIELDS


@kernel()
def _has(memory, level, code, kind):
    bit = memory[SEEN + 2 * level + (code >> 6)] >> (code & 63) & 1
    return bit and memory[_span(level, code) + 2] == kind


@kernel()
def _integer(frame, memory, level, code):
    span = _span(level, code)
    at, end = memory[span], memory[span + 1]
    negative = frame[at] == _MINUS
    if negative:
        at += 1
    value = 0
    while at < end:
        value = value * 10 + (np.int64(frame[at]) - 48)
        at += 1
    return -value if negative else value


@kernel()
def _decimal(frame, memory, level, code):
    """Return the double nearest to the decimal in a span, or NaN if that takes more than one exact division."""
    span = _span(level, code)
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


@kernel()
def _far(last, price, values):
    return last != 0.0 and not (last < price * values[JUMP] < last * values[JUMP_SQUARED])


@kernel()
def _time_fits(event_ms, memory):
    """Return whether an event's time needs no confirmation by others, and remember the newest."""
    if event_ms <= memory[MIN_TIME_MS] or event_ms >= memory[MAX_TIME_MS]:
        return False
    newest_ms = memory[NEWEST_MS]
    if event_ms > newest_ms:
        if newest_ms != 0 and event_ms > newest_ms + memory[TIME_JUMP_MS]:
            return False
        memory[NEWEST_MS] = event_ms
    return True


@kernel()
def _take_book(frame, recv_ns, memory, values):
    if not (_has(memory, 0, 98, _TEXT) and _has(memory, 0, 66, _TEXT) and _has(memory, 0, 97, _TEXT)):  # b B a
        return REFUSED
    if not (_has(memory, 0, 65, _TEXT) and _has(memory, 0, 117, _INT)):  # A u
        return REFUSED
    symbol, event_ms, update_id = (
        memory[OUT_INTS + SYMBOL],
        memory[OUT_INTS + EVENT_MS],
        _integer(frame, memory, 0, 117),
    )
    memory[OUT_INTS + SEQUENCE] = update_id
    known = BOOKS + memory[SYMBOLS] * BOOK_WORDS + symbol * STATE_WORDS
    book = BOOKS + symbol * BOOK_WORDS
    if update_id <= memory[known + UPDATE_ID]:
        reset = update_id < memory[known + UPDATE_ID] and event_ms > memory[known + BOOK_MS] + memory[RESET_MS]
        return REFUSED if reset else COPY
    if event_ms < memory[known + BOOK_MS]:
        return REFUSED
    bid, bid_qty = _decimal(frame, memory, 0, 98), _decimal(frame, memory, 0, 66)
    ask, ask_qty = _decimal(frame, memory, 0, 97), _decimal(frame, memory, 0, 65)
    if not (bid > 0.0 and bid < ask and ask < values[MAX_PRICE]):
        return REFUSED
    if not (0.0 <= bid_qty < values[MAX_QTY] and 0.0 <= ask_qty < values[MAX_QTY]):
        return REFUSED
    if _far(values[book], bid, values) or not _time_fits(event_ms, memory):
        return REFUSED
    updates = memory[known + UPDATES] + 1
    memory[known + UPDATE_ID], memory[known + BOOK_MS] = update_id, event_ms
    memory[known + BOOK_NS], memory[known + UPDATES] = recv_ns, updates
    values[book], values[book + 1], values[book + 2], values[book + 3] = bid, bid_qty, ask, ask_qty
    memory[book + 4], memory[book + 5], memory[book + 6], memory[book + 7] = update_id, event_ms, recv_ns, updates
    return BOOK


@kernel()
def _interval(frame, memory):
    """Return the timeframe that `i` of a kline names, or −1."""
    span = _span(1, 105)
    at, length = memory[span], memory[span + 1] - memory[span]
    if length == 2 and frame[at] == 49:
        return 0 if frame[at + 1] == 109 else (2 if frame[at + 1] == 104 else -1)
    return 1 if length == 3 and frame[at] == 49 and frame[at + 1] == 53 and frame[at + 2] == 109 else -1


@kernel()
def _kline_shape(frame, memory):
    """Return whether a kline's fields are there with the right types, and both symbols are the same."""
    for code in (115, 105, 111, 99, 104, 108, 118, 113, 86):  # s i o c h l v q V
        if not _has(memory, 1, code, _TEXT):
            return False
    for code in (116, 84, 76, 110):  # t T L n
        if not _has(memory, 1, code, _INT):
            return False
    outer, inner = _span(0, 115), _span(1, 115)
    length = memory[outer + 1] - memory[outer]
    if memory[inner + 1] - memory[inner] != length:
        return False
    same = True
    for k in range(length):
        same &= frame[memory[outer] + k] == frame[memory[inner] + k]
    return same


@kernel()
def _read_kline(frame, memory, values):
    if not _kline_shape(frame, memory):
        return REFUSED
    timeframe = _interval(frame, memory)
    closed = _has(memory, 1, 120, _TRUE)
    if timeframe < 0 or not (closed or _has(memory, 1, 120, _FALSE)):
        return REFUSED
    step_ms = _MINUTE_MS if timeframe == 0 else (_QUARTER_MS if timeframe == 1 else _HOUR_MS)
    open_ms, event_ms = _integer(frame, memory, 1, 116), memory[OUT_INTS + EVENT_MS]
    trades = _integer(frame, memory, 1, 110)
    if open_ms < 0 or open_ms >= memory[MAX_TIME_MS] or open_ms % step_ms or trades < 0 or trades >= values[MAX_QTY]:
        return REFUSED
    if _integer(frame, memory, 1, 84) != open_ms + step_ms - 1:
        return REFUSED
    if open_ms > event_ms + memory[EARLY_MS] or (closed and event_ms < open_ms + step_ms - 1):
        return REFUSED
    o, h = _decimal(frame, memory, 1, 111), _decimal(frame, memory, 1, 104)
    low, c = _decimal(frame, memory, 1, 108), _decimal(frame, memory, 1, 99)
    v, q, taker = _decimal(frame, memory, 1, 118), _decimal(frame, memory, 1, 113), _decimal(frame, memory, 1, 86)
    if not (low > 0.0 and h < values[MAX_PRICE] and low <= o <= h and low <= c <= h):
        return REFUSED
    if not (0.0 <= v < values[MAX_QTY] and 0.0 <= q < values[MAX_QTY] and 0.0 <= taker <= v * values[TAKER_SLACK]):
        return REFUSED
    memory[OUT_INTS + TIMEFRAME], memory[OUT_INTS + OPEN_MS] = timeframe, open_ms
    memory[OUT_INTS + CLOSED], memory[OUT_INTS + TRADES] = 1 if closed else 0, trades
    memory[OUT_INTS + SEQUENCE] = _integer(frame, memory, 1, 76)
    values[OUT_FLOATS], values[OUT_FLOATS + 1], values[OUT_FLOATS + 2], values[OUT_FLOATS + 3] = o, h, low, c
    values[OUT_FLOATS + 4], values[OUT_FLOATS + 5], values[OUT_FLOATS + 6] = v, q, taker
    return KLINE


@kernel()
def _read_mark(frame, memory, values):
    if not (_has(memory, 0, 112, _TEXT) and _has(memory, 0, 114, _TEXT) and _has(memory, 0, 84, _INT)):  # p r T
        return REFUSED
    if memory[SEEN] >> _ST & 1 and not (_has(memory, 0, _ST, _INT) and _integer(frame, memory, 0, _ST) != 2):
        return REFUSED  # a row of the other contract family, or a stranger thing
    price, none = _decimal(frame, memory, 0, 112), memory[_span(0, 114)] == memory[_span(0, 114) + 1]
    rate = 0.0 if none else _decimal(frame, memory, 0, 114)
    next_ms = _integer(frame, memory, 0, 84)
    if not (0.0 < price < values[MAX_PRICE] and -1.0 < rate < 1.0 and 0 <= next_ms < memory[MAX_TIME_MS]):
        return REFUSED
    memory[OUT_INTS + NEXT_MS] = next_ms
    values[OUT_FLOATS], values[OUT_FLOATS + 1] = price, math.nan if none else rate
    return MARK


@kernel(numba.int64(_BYTES, numba.int64, _MEMORY))
def scan(frame, recv_ns, memory):
    """Scan one frame; returns what it is.

    memory int64[memory_words(n)], laid out as above. BOOK: the symbol's book row, its state and NEWEST_MS were written.
    COPY: a book update that is known (out: symbol, event time, id). KLINE, MARK: the values are out, nothing else was
    written. REFUSED: nothing but scratch was written.
    """
    values = memory.view(np.float64)
    if not _locate(frame, len(frame), memory):
        return REFUSED
    if not (_has(memory, 0, 101, _TEXT) and _has(memory, 0, 115, _TEXT) and _has(memory, 0, 69, _INT)):  # e s E
        return REFUSED
    name, kind = _span(0, 115), _span(0, 101)
    symbol = _find(frame, memory[name], memory[name + 1], memory)
    if symbol < 0:
        return REFUSED
    memory[OUT_INTS + SYMBOL], memory[OUT_INTS + EVENT_MS] = symbol, _integer(frame, memory, 0, 69)
    start, end = memory[kind], memory[kind + 1]
    length, word, rest = end - start, _word(frame, start, end), _word(frame, start + 8, end)
    if length == 10 and word == _BOOK_TICKER and rest == _ICKER:
        return _take_book(frame, recv_ns, memory, values)
    if length == 5 and word == _KLINE_TEXT:
        return _read_kline(frame, memory, values)
    if length == 15 and word == _MARK_PRICE and rest == _UPDATE:
        return _read_mark(frame, memory, values)
    return REFUSED
