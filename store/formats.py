"""Files of market data → one series each: what it is, whose, and its columns as float64 with times in ms.

Understood: data.binance.vision zips and CSVs (klines, markPriceKlines, premiumIndexKlines, fundingRate, metrics; with
and without header row; s, ms, µs or ns) with their CHECKSUM files, and CSV, Parquet and Feather with named columns,
freqtrade's layout included. What a file is follows from its folder, its name and its columns.
"""

from __future__ import annotations

import hashlib
import io
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from kernels.records import TIMEFRAMES
from store.errors import ImportRefused

SUFFIXES = (".zip", ".csv", ".csv.gz", ".parquet", ".feather", ".arrow", ".ipc")
MAX_MEMBER_BYTES = 2 << 30  # a zip that unpacks to more is refused
KLINE_COLUMNS = ("time", "open", "high", "low", "close", "volume", "", "quote_volume", "trades", "taker_volume", "", "")
FUNDING_COLUMNS = ("time", "interval_hours", "rate")
NAMES: dict[str, str] = {
    **dict.fromkeys(
        ("date", "time", "timestamp", "datetime", "opentime", "createtime", "calctime", "fundingtime", "ts"), "time"
    ),
    **dict.fromkeys(("open", "o"), "open"),
    **dict.fromkeys(("high", "h"), "high"),
    **dict.fromkeys(("low", "l"), "low"),
    **dict.fromkeys(("close", "c"), "close"),
    **dict.fromkeys(("volume", "vol", "v", "basevolume"), "volume"),
    **dict.fromkeys(("quotevolume", "quoteassetvolume", "q"), "quote_volume"),
    **dict.fromkeys(("count", "trades", "numberoftrades", "numtrades", "tradecount", "n"), "trades"),
    **dict.fromkeys(("takerbuyvolume", "takervolume", "takerbuybaseassetvolume", "takerbuybasevolume"), "taker_volume"),
    **dict.fromkeys(("lastfundingrate", "fundingrate", "rate"), "rate"),
    **dict.fromkeys(("fundingintervalhours",), "interval_hours"),
    **dict.fromkeys(("sumopeninterest", "openinterest"), "open_interest"),
    **dict.fromkeys(("markprice",), "mark_price"),
    **dict.fromkeys(("symbol", "pair"), "symbol"),
}
_INTERVAL = re.compile(r"(?<![a-z0-9])(\d+[mhd]|1mo|1w)(?![a-z0-9])", re.IGNORECASE)
_DELIVERY = re.compile(r"^[A-Z0-9]{2,20}(?:USDT|USDC|BUSD|FDUSD)_\d{6}(?!\d)")
_SYMBOL = re.compile(r"^([A-Z0-9]{2,20}?)[_/-]?(USDT|USDC|BUSD|FDUSD)(?:[_:-](?:USDT|USDC|BUSD))?(?=[-_.]|$)")
FOLDERS = {
    "markpriceklines": "mark",
    "premiumindexklines": "premium",
    "indexpriceklines": "index",
    "klines": "klines",
    "fundingrate": "funding",
    "metrics": "open_interest",
}


@dataclass
class Series:
    """One file's content. `columns` maps our names to float64, `times_ms` is int64, `first_line` the first row's."""

    path: str
    kind: str  # klines, mark, premium, funding, open_interest
    symbol: str
    timeframe: int
    times_ms: npt.NDArray[np.int64]
    columns: dict[str, npt.NDArray[np.float64]]
    first_line: int = 1
    market: str = ""  # "spot" if a folder or name says so
    sha256: str = ""
    notes: list[str] = field(default_factory=list)

    def line(self, index: int) -> int:
        """Return the row number in the file of row `index`, as an editor counts."""
        return self.first_line + int(index)


def find_files(path: Path) -> list[Path]:
    """Return the importable files at or below `path`, sorted. Raises ImportRefused if there is none."""
    if path.is_file():
        return [path]
    found = sorted(item for item in path.rglob("*") if item.is_file() and item.name.lower().endswith(SUFFIXES))
    if not found:
        raise ImportRefused(str(path), "no file to import here", remedy=f"expected {', '.join(SUFFIXES)}")
    return found


def read(path: Path, symbol: str = "", kind: str = "", zone: str = "UTC") -> Iterator[Series]:
    """Yield the series of one file.

    `symbol` and `kind` override what the file says; `zone` is that of text and date times without one.
    """
    if not path.name.lower().endswith(SUFFIXES):
        raise ImportRefused(str(path), "unknown kind of file", remedy=f"expected {', '.join(SUFFIXES)}")
    digest = _digest(path)
    _check_sum(path, digest)
    for name, frame, first_line in _frames(path):
        series = _series(str(path) if name == path.name else f"{path}:{name}", path, name, frame, symbol, kind, zone)
        series.first_line, series.sha256 = first_line, digest
        yield series


def _digest(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise ImportRefused(str(path), f"cannot be read: {error.strerror}") from error


def _check_sum(path: Path, digest: str) -> None:
    beside = path.with_name(path.name + ".CHECKSUM")
    if not beside.exists():
        return
    expected = beside.read_text().split()[:1]
    if [digest] != [value.lower() for value in expected]:
        raise ImportRefused(
            str(path), f"expected sha256 {(expected or ['(empty)'])[0]}, got {digest}", remedy="download the file again"
        )


def _frames(path: Path) -> Iterator[tuple[str, pl.DataFrame, int]]:
    lower = path.name.lower()
    try:
        if lower.endswith(".zip"):
            yield from _members(path)
        elif lower.endswith((".csv", ".csv.gz")):
            yield path.name, *_csv(str(path), path.read_bytes())
        elif lower.endswith(".parquet"):
            yield path.name, pl.read_parquet(path), 1
        else:
            yield path.name, pl.read_ipc(path), 1
    except (pl.exceptions.PolarsError, zipfile.BadZipFile, zlib.error, OSError, EOFError, ValueError) as error:
        text = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ImportRefused(
            str(path), f"cannot be read: {text}", remedy="the file is damaged or of another kind"
        ) from error


def _members(path: Path) -> Iterator[tuple[str, pl.DataFrame, int]]:
    with zipfile.ZipFile(path) as archive:
        members = [item for item in archive.infolist() if item.filename.lower().endswith(".csv") and not item.is_dir()]
        if not members:
            raise ImportRefused(str(path), "the zip holds no .csv")
        for item in members:
            if item.file_size > MAX_MEMBER_BYTES:
                raise ImportRefused(
                    str(path), f"{item.filename} unpacks to {item.file_size} bytes; at most {MAX_MEMBER_BYTES}"
                )
            yield item.filename, *_csv(f"{path}:{item.filename}", archive.read(item))


def _csv(where: str, raw: bytes) -> tuple[pl.DataFrame, int]:
    """Return the table with our column names where there is no header row, and the line of its first row."""
    if raw[:2] == b"\x1f\x8b":
        import gzip

        raw = gzip.decompress(raw)
    raw = raw.removeprefix(b"\xef\xbb\xbf")
    first = raw[: raw.find(b"\n") if b"\n" in raw else len(raw)].decode("utf-8", "replace").strip()
    if not first:
        raise ImportRefused(where, "the file is empty")
    separator = max(",;\t|", key=first.count)
    cells = [cell.strip().strip('"') for cell in first.split(separator)]
    if any(NAMES.get(_plain(cell)) for cell in cells):
        return _table(raw, separator, True, None), 2
    layouts = {12: KLINE_COLUMNS, 3: FUNDING_COLUMNS, 6: KLINE_COLUMNS[:6]}
    if len(cells) not in layouts:
        raise ImportRefused(
            where,
            f"no header row and {len(cells)} columns",
            row=1,
            remedy="expected 12 (klines) or 3 (funding), or a header",
        )
    names = [name or f"unused_{index}" for index, name in enumerate(layouts[len(cells)])]
    return _table(raw, separator, False, names), 1


def _table(raw: bytes, separator: str, header: bool, names: list[str] | None) -> pl.DataFrame:
    """Parse a CSV. A column whose first rows are whole numbers and later ones not is seen in a second, slower pass."""

    def parse(rows: int | None) -> pl.DataFrame:
        return pl.read_csv(
            io.BytesIO(raw), separator=separator, has_header=header, new_columns=names, infer_schema_length=rows
        )

    try:
        return parse(10_000)
    except pl.exceptions.ComputeError:
        return parse(None)


def _plain(name: str) -> str:
    return re.sub(r"[^a-z]", "", name.lower())


def _series(where: str, path: Path, name: str, frame: pl.DataFrame, symbol: str, kind: str, zone: str) -> Series:
    if not len(frame):
        raise ImportRefused(where, "the file holds no rows")
    found: dict[str, str] = {}
    for column in frame.columns:
        ours = column if column in KLINE_COLUMNS or column in FUNDING_COLUMNS else NAMES.get(_plain(column), "")
        if ours and ours not in found:
            found[ours] = column
    if "time" not in found:
        raise ImportRefused(
            where, f"no time column among {', '.join(frame.columns)}", remedy="name it time, date or open_time"
        )
    times = to_ms(where, frame[found["time"]], zone)
    columns = {ours: _numbers(where, frame[column]) for ours, column in found.items() if ours not in ("time", "symbol")}
    told = kind or _kind(path, name, columns)
    if told == "index":
        raise ImportRefused(
            where, "index-price candles", remedy="they are not stored; expected klines or markPriceKlines"
        )
    series = Series(where, told, _symbol(where, symbol, name, frame, found), 0, times, columns)
    parts = {part.lower() for part in path.parts}
    series.market = "spot" if parts & {"spot"} or re.search(r"(?<![a-z])spot(?![a-z])", name.lower()) else ""
    series.timeframe = _timeframe(series, name)
    return series


def _kind(path: Path, name: str, columns: dict[str, npt.NDArray[np.float64]]) -> str:
    lower = name.lower()
    if "funding" in lower or ("rate" in columns and "close" not in columns):
        return "funding"
    if "open_interest" in columns:
        return "open_interest"
    for part in reversed(path.parts[:-1]):
        if part.lower() in FOLDERS:
            return FOLDERS[part.lower()]
    if "premium" in lower:
        return "premium"
    return "mark" if re.search(r"(?<![a-z])mark", lower) else "klines"


def _symbol(where: str, symbol: str, name: str, frame: pl.DataFrame, found: dict[str, str]) -> str:
    if symbol:
        return symbol.upper()
    if "symbol" in found:
        listed = frame[found["symbol"]].cast(pl.String).unique().to_list()
        if len(listed) != 1:
            raise ImportRefused(where, f"expected one symbol, got {len(listed)}", remedy="split the file by symbol")
        return str(listed[0]).upper().replace("/", "").split(":")[0]
    if _DELIVERY.match(Path(name).name.upper()):
        raise ImportRefused(
            where, "a delivery contract, not a perpetual", remedy="its prices have a basis of their own"
        )
    match = _SYMBOL.match(Path(name).name.upper())
    if not match:
        raise ImportRefused(where, "neither a column nor the file's name says which symbol", remedy="give --symbol")
    return match.group(1) + match.group(2)


def _timeframe(series: Series, name: str) -> int:
    if series.kind in ("funding", "open_interest"):
        return 0
    told = _INTERVAL.search(name.lower().replace("_", "-"))
    steps = np.diff(series.times_ms)
    step = int(np.median(steps[steps > 0])) if (steps > 0).any() else 60_000
    measured = {60_000: "1m", 900_000: "15m", 3_600_000: "1h"}.get(step, f"{step / 1000:g} s")
    if told and len(steps) > 2 and told.group(1) != measured:
        raise ImportRefused(
            series.path,
            f"the name says {told.group(1)}, the rows are {measured} apart",
            remedy="check what the file is",
        )
    chosen = told.group(1) if told else measured
    if chosen not in TIMEFRAMES:
        raise ImportRefused(series.path, f"timeframe {chosen}", remedy=f"only {', '.join(TIMEFRAMES)} are stored")
    if series.kind in ("mark", "premium") and chosen != "1m":
        raise ImportRefused(series.path, f"{series.kind} candles of {chosen}", remedy="only 1m is stored")
    return TIMEFRAMES.index(chosen)


def _numbers(where: str, column: pl.Series) -> npt.NDArray[np.float64]:
    if column.dtype == pl.String:
        cast = column.str.strip_chars().cast(pl.Float64, strict=False)
        broken = (cast.is_null() & column.is_not_null() & (column.str.strip_chars() != "")).arg_true()
        if len(broken):
            row = int(broken[0])
            raise ImportRefused(where, f"{column.name}: expected a number, got {column[row]!r}", row=row + 2)
        column = cast
    if column.dtype.is_temporal() or column.dtype.is_nested():
        return np.full(len(column), np.nan)
    return column.cast(pl.Float64).fill_null(np.nan).to_numpy().astype(np.float64)


def to_ms(where: str, column: pl.Series, zone: str) -> npt.NDArray[np.int64]:
    """Return times as UTC milliseconds. Numbers are told apart by magnitude; texts must be ISO 8601."""
    if column.null_count():
        row = int(column.is_null().arg_true()[0])
        raise ImportRefused(where, "a row without time", row=row + 2)
    if column.dtype == pl.String:
        column = _parse_text(where, column)
    if column.dtype == pl.Date:
        column = column.cast(pl.Datetime("ms"))
    if isinstance(column.dtype, pl.Datetime):
        if column.dtype.time_zone is None and zone != "UTC":
            column = column.dt.replace_time_zone(zone, ambiguous="earliest", non_existent="null")
        return column.dt.epoch("ms").to_numpy().astype(np.int64)
    values = column.cast(pl.Float64).to_numpy()
    if not np.isfinite(values).all():
        raise ImportRefused(where, "a row without time", row=int(np.argmin(np.isfinite(values))) + 2)
    if (np.abs(values) > 9e18).any():
        row = int(np.argmax(np.abs(values) > 9e18))
        raise ImportRefused(where, f"time {column[row]} is no time", row=row + 2)
    if column.dtype.is_integer():
        exact = column.cast(pl.Int64).to_numpy()
        divide = np.select([values > 1e17, values > 1e14, values > 1e11], [1_000_000, 1_000, 1], 0)
        return np.where(divide > 0, exact // np.maximum(divide, 1), exact * 1_000)
    if (values < 1e6).any() and (values > 20_000).all():
        raise ImportRefused(where, f"{values[0]:g} looks like a spreadsheet's day number", remedy=SPREADSHEET)
    divide = np.select([values > 1e17, values > 1e14, values > 1e11], [1e6, 1e3, 1.0], 1e-3)
    return np.rint(values / divide).astype(np.int64)


SPREADSHEET = "a spreadsheet has changed the times; use the file as downloaded"


def _parse_text(where: str, column: pl.Series) -> pl.Series:
    stripped = column.str.strip_chars()
    for pattern, what in (
        (r"^\d+([.,]\d+)?[eE]\+?\d+$", "in scientific notation: digits are lost"),
        (r"^\d{1,2}[./]\d{1,2}[./]\d{2,4}", "with day and month in an order nobody can know"),
    ):
        hit = stripped.str.contains(pattern).arg_true()
        if len(hit):
            row = int(hit[0])
            raise ImportRefused(where, f"time {column[row]!r} is {what}", row=row + 2, remedy=SPREADSHEET)
    numeric = stripped.cast(pl.Int64, strict=False)
    if not numeric.null_count():
        return numeric
    zoned = bool(stripped.str.contains(r"(Z|[+-]\d{2}:?\d{2})$").all())
    try:
        parsed = stripped.str.to_datetime(strict=False, time_unit="ms", time_zone="UTC" if zoned else None)
    except pl.exceptions.PolarsError:  # not even the first one looks like a time
        parsed = pl.Series(column.name, [None] * len(column), pl.Datetime("ms"))
    if parsed.null_count():
        row = int(parsed.is_null().arg_true()[0])
        raise ImportRefused(
            where, f"time {column[row]!r}", row=row + 2, remedy="expected ISO 8601 or epoch s, ms, µs, ns"
        )
    return parsed
