"""The helper process: everything over REST that would hold up the engine's loop. One JSON object per line each way.

In: `{"id", "job", "args"}`. Out: `{"id", "ok", "result" | "error"}`, and events without an id: `progress`, `sample`,
`time`. It ends when its standard input does, so it never outlives the engine.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson
import uvloop

from engine.errors import DataError, ExchangeError
from engine.exchange import filters
from engine.exchange.budget import SWEEPS, WeightBudget
from engine.exchange.rest import MarketRest, closed
from engine.market.lines import MAX_LINE_BYTES, encode_bars
from engine.market.rings import BarFile, bar_path
from engine.market.samples import MINUTE_MS, read_held, read_samples, sample_path
from engine.market.series import holes, unbroken
from kernels.records import TIMEFRAME_MS

OPEN_INTEREST_MS = 300_000
OPEN_INTEREST_NEEDED = 190  # 1h oi_change reaches back 15 h
FUNDING_DAYS = 60  # at least 90 rates at 8-hour intervals, with room
TIME_EVERY_S = 5.0
TIME_KEPT_S = 0.25
SYMBOLS_AT_ONCE = 16  # so that a file is complete soon, rather than all files at the end


class Worker:
    """The jobs, on one REST client."""

    def __init__(self, rest: MarketRest, emit: Callable[[dict[str, Any]], None]) -> None:
        self._rest = rest
        self._emit = emit
        self._hours: dict[str, int] = {}
        self._listing = asyncio.Lock()
        self._listed: dict[str, bytes] = {}
        self._server_ms, self._server_s = 0, 0.0
        self.jobs: dict[str, Callable[..., Awaitable[Any]]] = {
            "instruments": self.instruments,
            "history": self.history,
            "bars": self.bars,
            "samples": self.samples,
            "time": self.time,
        }

    async def instruments(self, path: str) -> dict[str, Any]:
        """Write the instrument table to `path`; name the symbols whose row is not as this process last saw it."""
        async with self._listing:
            table = await self._rest.instruments()
            self._hours = {bytes(row["symbol"]).decode(): int(row["funding_hours"]) for row in table}
        before = self._listed
        self._listed = {bytes(row["symbol"]).decode(): row.tobytes() for row in table}
        changed = [name for name in {**before, **self._listed} if before.get(name) != self._listed.get(name)]
        filters.save(Path(path), table)
        return {"instruments": len(table), "tradable": filters.tradable(table), "changed": changed}

    async def time(self) -> dict[str, int]:
        """Sample the exchange's clock once (monotonic ns of sending and receiving, server ms)."""
        sent_ns = time.monotonic_ns()
        server_ms = await self._rest.server_time_ms()
        return {"sent_ns": sent_ns, "received_ns": time.monotonic_ns(), "server_ms": server_ms}

    async def _recent_ms(self) -> int:
        """Return the exchange's time, at most `TIME_KEPT_S` old: 600 symbols must not cost 2,400 questions."""
        if time.monotonic() - self._server_s > TIME_KEPT_S or not self._server_ms:
            self._server_ms, self._server_s = await self._rest.server_time_ms(), time.monotonic()
        return self._server_ms

    async def history(
        self,
        bars_dir: str,
        samples_dir: str,
        symbols: list[str],
        warmup: dict[str, int],
        capacity: dict[str, int],
        timeframes: list[int],
        open_interest: int = 500,
    ) -> dict[str, Any]:
        """Bring bar files and sample files of `symbols` up to date.

        `warmup` and `capacity` count bars by symbol, with a key "" for all others. Bars already in a file stay as
        they were seen; what follows them is fetched. Files must not be open for writing elsewhere.
        """
        gate, done, result = asyncio.Semaphore(SYMBOLS_AT_ONCE), 0, {"bars": 0, "filled": 0, "short": []}
        self._server_ms = 0
        async with self._listing:  # a question before this one may bring it
            self._hours = self._hours or await self._rest.funding_hours()

        async def one(symbol: str) -> None:
            nonlocal done
            need, size = warmup.get(symbol, warmup[""]), capacity.get(symbol, capacity[""])
            async with gate:
                await asyncio.gather(
                    *(self._bar_file(Path(bars_dir), symbol, frame, need, size, result) for frame in timeframes),
                    self._sample_files(Path(samples_dir), symbol, open_interest, sample_path(Path(bars_dir), symbol)),
                )
            done += 1
            self._emit({"event": "progress", "job": "history", "done": done, "of": len(symbols), "symbol": symbol})

        await asyncio.gather(*(one(symbol) for symbol in symbols))
        return result | {"server_ms": await self._rest.server_time_ms()}

    async def _bar_file(
        self, folder: Path, symbol: str, timeframe: int, need: int, capacity: int, result: dict[str, Any]
    ) -> None:
        step, path = TIMEFRAME_MS[timeframe], bar_path(folder, symbol, timeframe)
        file = _open_file(path, symbol, timeframe, capacity)
        try:
            kept = file.ordered()
            if len(kept) and holes(kept["open_ms"], timeframe):
                kept = unbroken(kept[-1:], timeframe)[0][:0]
            server_ms = await self._recent_ms()
            first_ms = server_ms // step * step - need * step
            kept = kept[kept["open_ms"] + step <= server_ms]  # a simulator's clock may have begun again
            if len(kept) and kept["open_ms"][-1] + step < first_ms:
                kept = kept[:0]  # too old to be joined with the warm-up
            starts = int(kept["open_ms"][0]) if len(kept) else server_ms // step * step
            follows = int(kept["open_ms"][-1]) + step if len(kept) else starts
            before, after = await asyncio.gather(
                self._rest.history(symbol, timeframe, first_ms, starts),
                self._rest.history(symbol, timeframe, follows, server_ms // step * step),
            )
            before, after = closed(before, timeframe, server_ms), closed(after, timeframe, server_ms)
            whole, filled = unbroken(np.concatenate([before, kept, after]), timeframe)
            file.rewrite(whole)
            result["bars"] += len(before) + len(after)
            result["filled"] += filled
            if len(whole) < need - 1:
                result["short"].append([symbol, timeframe, len(whole)])
        finally:
            file.close()

    async def _sample_files(self, folder: Path, symbol: str, open_interest: int, kept: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        hours = self._hours.get(symbol, filters.DEFAULT_FUNDING_HOURS)
        now_ms, path = await self._recent_ms(), folder / f"{symbol}.funding"
        if not _covers(path, now_ms, hours):
            _write(path, (await self._rest.funding(symbol, now_ms - FUNDING_DAYS * 86_400_000, None, hours))[0])
        if open_interest and not _holds(kept, now_ms):
            _write(folder / f"{symbol}.open_interest", await self._rest.open_interest(symbol, limit=open_interest))

    async def bars(self, ranges: list[list[Any]]) -> dict[str, Any]:
        """Fetch [symbol, timeframe, from_ms, to_ms] ranges in the order given; only closed bars are returned.

        `bars` holds one text per range (see `decode_bars`), or null where the range could not be read. `server_ms`
        was read before: a bar that should be there by then and is not does not exist at the exchange.
        """
        server_ms = await self._rest.server_time_ms()

        async def one(symbol: str, timeframe: int, from_ms: int, to_ms: int) -> str | None:
            try:
                found = await self._rest.history(symbol, timeframe, from_ms, to_ms)
            except ExchangeError as error:
                self._emit({"event": "fault", "job": "bars", "symbol": symbol, "error": str(error)})
                return None
            return encode_bars(closed(found, timeframe, server_ms))

        return {"server_ms": server_ms, "bars": await asyncio.gather(*(one(*part) for part in ranges))}

    async def samples(self, kind: str, symbols: list[str], from_ms: list[int]) -> dict[str, Any]:
        """Fetch samples stamped from `from_ms` of each symbol on; its rows leave as a `sample` event at once.

        The event's `hours` are those that each funding rate ran; 0 for open interest.
        """
        counts = {"symbols": 0, "rows": 0, "faults": 0}

        async def one(symbol: str, since_ms: int) -> None:
            try:
                if kind == "funding":
                    listed = self._hours.get(symbol, filters.DEFAULT_FUNDING_HOURS)
                    rows, hours = await self._rest.funding(symbol, since_ms, None, listed)
                else:
                    rows = await self._rest.open_interest(symbol, since_ms, None)
                    hours = np.zeros(len(rows), np.int64)
            except ExchangeError:
                counts["faults"] += 1
                return
            counts["symbols"] += 1
            counts["rows"] += len(rows)
            told = {"rows": rows.tolist(), "hours": hours.tolist()}
            self._emit({"event": "sample", "kind": kind, "symbol": symbol} | told)

        await asyncio.gather(*(one(*asked) for asked in zip(symbols, from_ms, strict=True)))
        return counts


def _open_file(path: Path, symbol: str, timeframe: int, capacity: int) -> BarFile:
    """Open a bar file of the right size, or begin a new one where it is absent, damaged or of another size."""
    if path.exists():
        try:
            file = BarFile.open(path)
        except DataError:
            path.rename(path.with_name(path.name + ".damaged"))
        else:
            if (file.capacity, file.timeframe, file.symbol) == (capacity, timeframe, symbol):
                return file
            file.close()
    return BarFile.create(path, symbol, timeframe, capacity)


def _covers(path: Path, now_ms: int, interval_hours: int) -> bool:
    """Tell whether a funding file still holds the newest settlement: 600 symbols cost the pool of five minutes."""
    try:
        held = read_samples(path)
    except DataError:
        return False
    return len(held) > 0 and now_ms < int(held["stamp_ms"][-1]) + interval_hours * 3_600_000


def _holds(path: Path, now_ms: int) -> bool:
    """Tell whether the engine's sample file holds all the open interest that features look back at, but for the newest
    sample at most, which is asked for anyway: a restart of 600 symbols would cost the pool of five minutes.
    """
    stamps = read_held(path)[0]["stamp_ms"][-OPEN_INTEREST_NEEDED:] // MINUTE_MS * MINUTE_MS
    whole = len(stamps) == OPEN_INTEREST_NEEDED and bool((np.diff(stamps) == OPEN_INTEREST_MS).all())
    return whole and now_ms - int(stamps[-1]) < 2 * OPEN_INTEREST_MS


def _write(path: Path, samples: npt.NDArray[Any]) -> None:
    partial = path.with_name(path.name + ".new")
    partial.write_bytes(samples.tobytes())
    partial.replace(path)


async def serve(base_url: str, budget_path: Path | None, pool_scale: int = 1) -> None:
    """Answer requests from standard input until it ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader(limit=MAX_LINE_BYTES)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin.buffer)
    out = sys.stdout.buffer

    def emit(message: dict[str, Any]) -> None:
        out.write(orjson.dumps(message, option=orjson.OPT_SERIALIZE_NUMPY) + b"\n")
        out.flush()

    async def work(request: dict[str, Any]) -> None:
        answer: dict[str, Any] = {"id": request.get("id"), "ok": True}
        try:
            answer["result"] = await worker.jobs[request["job"]](**request.get("args", {}))
        except (ExchangeError, DataError, OSError, KeyError, TypeError, ValueError) as error:
            answer |= {"ok": False, "error": f"{type(error).__name__}: {error}"}
        emit(answer)

    async with MarketRest(base_url, WeightBudget(budget_path, SWEEPS), pool_scale=pool_scale) as rest:
        worker = Worker(rest, emit)
        running = {asyncio.create_task(_sample_time(worker, emit))}
        while line := await reader.readline():
            task = asyncio.create_task(work(orjson.loads(line)))
            running.add(task)
            task.add_done_callback(running.discard)
        for task in running:
            task.cancel()


async def _sample_time(worker: Worker, emit: Callable[[dict[str, Any]], None]) -> None:
    while True:
        try:
            emit({"event": "time", **await worker.time()})
        except (ExchangeError, KeyError, TypeError, ValueError) as error:
            emit({"event": "fault", "job": "time", "error": str(error)})
        await asyncio.sleep(TIME_EVERY_S)


if __name__ == "__main__":
    os.nice(5)
    uvloop.run(serve(sys.argv[1], Path(sys.argv[2]) if sys.argv[2] else None, int(sys.argv[3])))
