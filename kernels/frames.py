"""Market frames of the exact shape that the exchange sends, from bytes to rings. Everything else is refused, unjudged.

`engine.market.parsing` decodes with orjson, and that is the meaning of a frame. `scan` takes the ordinary ones among
those that `kernels.tokens` reads and in whose values no check finds fault: it leaves the same numbers, bit for bit, and
the same counts. A reset sequence, a price or time far away, a revision, a hole between closes are left to the parser.
"""

from __future__ import annotations

import numpy as np

from kernels import event
from kernels.addresses import array_at
from kernels.compile import kernel
from kernels.direct import argument, as_number, builtin, data_of, misused, number_of, text_of
from kernels.names import NAME_WORDS, TABLE_SLOTS, find
from kernels.records import BAR, TIMEFRAME_MS, BarFlag

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
OUT_INTS = event.EVENT_WORDS
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


def memory_words(symbols: int) -> int:
    """Return how many words `scan` needs for so many symbols."""
    return BOOKS + symbols * SYMBOL_WORDS


def sections(symbols: int) -> tuple[int, int, int, int, int]:
    """Return where the books, symbols' states, series, open bars and names of so many symbols begin."""
    states = BOOKS + symbols * BOOK_WORDS
    series = states + symbols * STATE_WORDS
    bars = series + 3 * symbols * SERIES_WORDS
    return BOOKS, states, series, bars, bars + 3 * symbols * BAR_WORDS


@kernel(forceinline=True)
def _whole_numbers(memory_at, place):
    """Return the words from a place on. Fixed numbers index them: others would be asked whether they are negative."""
    return array_at(memory_at + 8 * place, _ANY, np.int64)


@kernel(forceinline=True)
def _doubles(memory_at, place):
    return array_at(memory_at + 8 * place, _ANY, np.float64)


@kernel(forceinline=True)
def _far(last, price, memory_at):
    values = array_at(memory_at, _ANY, np.float64)
    return last != 0.0 and not (last < price * values[JUMP] < last * values[JUMP_SQUARED])


@kernel(forceinline=True)
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


@kernel(forceinline=True)
def _first(memory_at, source_at, kind, stream, sequence):
    """Count a frame that no connection delivered before."""
    source = array_at(source_at, _ANY, np.int64)
    _whole_numbers(source_at, NEWEST + stream)[0] = sequence
    source[FIRSTS] += 1
    _whole_numbers(memory_at, ACCEPTED + kind)[0] += 1


@kernel()
def _second(memory_at, source_at, stream, sequence, recv_ns, first_ns):
    """Count a frame that another connection (or this one) delivered before, at first_ns (0: not known)."""
    memory = array_at(memory_at, _ANY, np.int64)
    source = array_at(source_at, _ANY, np.int64)
    newest = _whole_numbers(source_at, NEWEST + stream)
    if sequence < newest[0]:
        memory[FAULTY + BACKWARD] += 1
        source[FAULTS] += 1
        return DONE
    newest[0] = sequence
    memory[NOTED + DUPLICATE] += 1
    if first_ns:
        source[LAGS] += 1
        source[LAG_NS] += recv_ns - first_ns
    return DONE


@kernel()
def _take_book(symbol, recv_ns, memory_at, source_at):
    memory = array_at(memory_at, _ANY, np.int64)
    values = array_at(memory_at, _ANY, np.float64)
    event_ms, update_id = memory[event.EVENT_MS], memory[event.UPDATE_ID]
    known = _whole_numbers(memory_at, BOOKS + memory[SYMBOLS] * BOOK_WORDS + symbol * STATE_WORDS)
    stream = BOOK_KIND * memory[SYMBOLS] + symbol
    if update_id <= known[UPDATE_ID]:
        if update_id < known[UPDATE_ID] and event_ms > known[BOOK_MS] + memory[RESET_MS]:
            return REFUSED
        first_ns = known[BOOK_NS] if update_id == known[UPDATE_ID] else 0
        return _second(memory_at, source_at, stream, update_id, recv_ns, first_ns)
    if event_ms < known[BOOK_MS]:
        return REFUSED
    bid, bid_qty, ask, ask_qty = values[event.BID], values[event.BID_QTY], values[event.ASK], values[event.ASK_QTY]
    if not (bid > 0.0 and bid < ask and ask < values[MAX_PRICE]):
        return REFUSED
    if not (0.0 <= bid_qty < values[MAX_QTY] and 0.0 <= ask_qty < values[MAX_QTY]):
        return REFUSED
    row = BOOKS + symbol * BOOK_WORDS
    prices, sequence = _doubles(memory_at, row), _whole_numbers(memory_at, row)
    if _far(prices[0], bid, memory_at) or not _time_fits(event_ms, memory_at):
        return REFUSED
    known[UPDATES] += 1
    known[UPDATE_ID], known[BOOK_MS], known[BOOK_NS] = update_id, event_ms, recv_ns
    prices[0], prices[1], prices[2], prices[3] = bid, bid_qty, ask, ask_qty
    sequence[4], sequence[5], sequence[6], sequence[7] = update_id, event_ms, recv_ns, known[UPDATES]
    _first(memory_at, source_at, BOOK_KIND, stream, update_id)
    return BOOK


@kernel(forceinline=True)
def _bar_fits(memory_at):
    """Return whether a kline's prices and volumes are within their bounds."""
    values = array_at(memory_at, _ANY, np.float64)
    o, h, low, c = values[event.BAR], values[event.BAR + 1], values[event.BAR + 2], values[event.BAR + 3]
    v, q, taker = values[event.BAR + 4], values[event.BAR + 5], values[event.BAR + 6]
    if not (low > 0.0 and h < values[MAX_PRICE] and low <= o <= h and low <= c <= h):
        return False
    return 0.0 <= v < values[MAX_QTY] and 0.0 <= q < values[MAX_QTY] and 0.0 <= taker <= v * values[TAKER_SLACK]


@kernel(forceinline=True)
def _same_bar(memory_at, known_at, trade_id):
    """Return whether a closing frame has the values of the newest closed bar."""
    values, last = array_at(memory_at, _ANY, np.float64), _doubles(known_at, LAST)
    same = _whole_numbers(known_at, LAST)[8] == trade_id
    for k in range(8):
        same &= last[k] == values[event.BAR + k]
    return same


@kernel(forceinline=True)
def _copy_values(memory_at, place):
    """Write a kline's 7 prices and volumes and its trades to 8 words."""
    values, out = array_at(memory_at, _ANY, np.float64), _doubles(memory_at, place)
    for k in range(8):
        out[k] = values[event.BAR + k]


@kernel()
def _take_kline(symbol, recv_ns, memory_at, source_at):
    memory = array_at(memory_at, _ANY, np.int64)
    values = array_at(memory_at, _ANY, np.float64)
    event_ms, open_ms, trade_id = memory[event.EVENT_MS], memory[event.OPEN_MS], memory[event.TRADE_ID]
    trades, timeframe, closed = memory[event.TRADES], memory[event.TIMEFRAME], memory[event.FINAL] != 0
    count, row = memory[SYMBOLS], symbol * 3 + timeframe
    stream, states = timeframe * count + symbol, BOOKS + count * BOOK_WORDS
    series = states + count * STATE_WORDS + row * SERIES_WORDS
    known, delivered = _whole_numbers(memory_at, series), _whole_numbers(source_at, NEWEST + stream)
    newest, last = known[OPEN_MS], known[CLOSED_MS]
    newer = closed or trade_id > known[TRADE_ID]
    if not closed and not (open_ms > newest or (open_ms == newest and last < open_ms and newer)):
        if event_ms >= delivered[0] and open_ms <= last:
            delivered[0] = event_ms
            memory[NOTED + CLOSED_BAR] += 1
            return DONE
        first_ns = known[KLINE_NS] if open_ms == newest else 0
        return _second(memory_at, source_at, stream, event_ms, recv_ns, first_ns)
    step_ms = _MINUTE_MS if timeframe == 0 else (_QUARTER_MS if timeframe == 1 else _HOUR_MS)
    if open_ms < 0 or open_ms >= memory[MAX_TIME_MS] or open_ms % step_ms or trades < 0 or trades >= values[MAX_QTY]:
        return REFUSED
    if memory[event.CLOSE_MS] != open_ms + step_ms - 1:
        return REFUSED
    if open_ms > event_ms + memory[EARLY_MS] or (closed and event_ms < open_ms + step_ms - 1):
        return REFUSED
    close = _doubles(memory_at, states + symbol * STATE_WORDS + CLOSE)
    if not _bar_fits(memory_at) or _far(close[0], values[event.BAR + 3], memory_at):
        return REFUSED
    if not _time_fits(event_ms, memory_at):
        return REFUSED
    if closed and open_ms == last and _same_bar(memory_at, memory_at + 8 * series, trade_id):
        return _second(memory_at, source_at, stream, event_ms, recv_ns, known[KLINE_NS])
    if closed and (open_ms <= last or (last >= 0 and open_ms != last + step_ms) or open_ms < newest):
        return REFUSED
    place = states + count * (STATE_WORDS + 3 * SERIES_WORDS) + row * BAR_WORDS
    bar = _whole_numbers(memory_at, place)
    bar[0], bar[9], bar[10], bar[11] = open_ms, trade_id, event_ms, _WS
    _copy_values(memory_at, place + 1)
    known[OPEN_MS], known[TRADE_ID], known[KLINE_NS] = open_ms, trade_id, recv_ns
    close[0] = values[event.BAR + 3]
    _first(memory_at, source_at, timeframe, stream, max(event_ms, delivered[0]))
    memory[OUT_INTS + TIMEFRAME] = timeframe
    if not closed:
        return OPEN
    known[CLOSED_MS], known[LAST + 8] = open_ms, trade_id
    _copy_values(memory_at, series + LAST)
    return CLOSED


@kernel()
def _take_mark(symbol, recv_ns, memory_at, source_at):
    memory = array_at(memory_at, _ANY, np.int64)
    values = array_at(memory_at, _ANY, np.float64)
    price, rate = values[event.MARK_PRICE], values[event.RATE]
    event_ms, next_ms = memory[event.EVENT_MS], memory[event.NEXT_MS]
    if not (0.0 < price < values[MAX_PRICE] and not abs(rate) >= 1.0 and 0 <= next_ms < memory[MAX_TIME_MS]):
        return REFUSED
    state = BOOKS + memory[SYMBOLS] * BOOK_WORDS + symbol * STATE_WORDS
    known, last = _whole_numbers(memory_at, state), _doubles(memory_at, state)
    stream = MARK_KIND * memory[SYMBOLS] + symbol
    if event_ms <= known[MARK_MS]:
        first_ns = known[MARK_NS] if event_ms == known[MARK_MS] else 0
        return _second(memory_at, source_at, stream, event_ms, recv_ns, first_ns)
    if _far(last[MARK_PRICE], price, memory_at) or not _time_fits(event_ms, memory_at):
        return REFUSED
    last[MARK_PRICE], known[MARK_MS], known[MARK_NS] = price, event_ms, recv_ns
    _first(memory_at, source_at, MARK_KIND, stream, event_ms)
    memory[OUT_INTS + NEXT_MS] = next_ms
    values[OUT_FLOATS], values[OUT_FLOATS + 1] = price, rate
    return MARK


@kernel()
def scan_at(frame_at, size, recv_ns, memory_at, source_at):
    """Take one frame of `size` bytes at an address; see `scan`."""
    memory = array_at(memory_at, _ANY, np.int64)
    source = array_at(source_at, _ANY, np.int64)
    kind = event.read_event(frame_at, size, memory_at)
    if kind < 0:
        return REFUSED
    names = BOOKS + memory[SYMBOLS] * (SYMBOL_WORDS - NAME_WORDS)
    symbol = find(memory_at + 8 * TABLE, memory_at + 8 * names, memory_at + 8 * event.NAME)
    if symbol < 0:
        return REFUSED
    memory[OUT_INTS + SYMBOL], memory[OUT_INTS + EVENT_MS] = symbol, memory[event.EVENT_MS]
    if kind == event.KLINE:
        found = _take_kline(symbol, recv_ns, memory_at, source_at)
    elif kind == event.TICKER:
        found = _take_book(symbol, recv_ns, memory_at, source_at)
    else:
        found = _take_mark(symbol, recv_ns, memory_at, source_at)
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
    if count != 4:
        return misused()
    frame_at, size = text_of(argument(arguments, 0))
    recv_ns, memory, source = argument(arguments, 1), argument(arguments, 2), argument(arguments, 3)
    return as_number(scan_at(frame_at, size, number_of(recv_ns), data_of(memory), data_of(source)))
