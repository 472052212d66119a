"""The page docs/features.md, written from the schema: `python -m kernels.schema_page > docs/features.md`."""

from __future__ import annotations

from kernels.schema import (
    FAMILIES,
    FUNDING_RATES,
    READY_BTC_BARS,
    READY_OWN_BARS,
    SCHEMA,
    SCHEMA_HASH,
    SCHEMA_VERSION,
    TARGETS,
)

_INTRO = """# The 132 features

Generated from `kernels/schema.py` by `python -m kernels.schema_page > docs/features.md`; a test fails when it is not
current.

A vector is 44 features of 1m, then the same 44 of 15m, then of 1h: column `<name>_<timeframe>`, index `44 × timeframe +
number`. All are float64. Schema version {version}, schema hash `{hash:#018x}` (`kernels.schema.SCHEMA_HASH`): every
bundle and every stored vector carries it, and another hash is refused.

`o h l c` are a bar's prices, `v` base volume, `q` quote volume, `n` trades, `tb` taker-buy base volume; `x[k]` is the
value k bars ago. *Window* and *first bar* (from 0) count bars of the feature's own timeframe. A feature is NaN before
its first bar and where its source is missing; a vector is *ready* when its symbol has {own} bars and BTCUSDT has {btc}
in every timeframe. K of `funding_z` is {k} for 1m, 15m and 1h.

Code: `kernels/price.py`, `volatility.py`, `trend.py`, `momentum.py`, `volume.py` and `structure.py` hold one step
function per family over the primitives of `rolling.py`; `features.step_bar` calls them, `features.fold` loops it, and
`tests/naive.py` says the same slowly.
"""

_OUTRO = """
## Precision and speed

`tests/kernels/test_oracles.py` compares every bar, none left out: within 1e-13 · max(|x|, s) of the same definitions in
extended precision (s = 100 for the columns in per cent and CCI, 1 for the unitless ones, 0.01 for slope, else 0); and
within 1e-9 · max(|x|, s) of TA-Lib 0.8.1, but for about 1 bar in 100,000 of `bb_*` and `cci` whose window hardly moves:
there rational arithmetic shows that ours is the exact value and TA-Lib's sum of squares or rounded mean is not.

A bar's 44 features take 0.34 µs in a fold and 0.61 µs in a live call, 600 symbols at a minute close 0.24 ms, a
symbol-year of all three timeframes 0.31 s; a state has 9,728 bytes. A process that never touched the 555 MB of that
year's vectors pays once more for the pages: 0.04 s on memory that the kernel has, up to 1.3 s in a virtual machine
whose host has to find them. Importing the compiled kernels takes 2.1 s, without a compile cache 15 s. Measured on two
shared cores; `docs/benchmarks.md` has all figures beside TA-Lib, talipp and nautilus_trader.

## Vector hash

`kernels.features.vector_hash` is XXH64 (seed 0) over the 1,056 little-endian bytes of the vector, in which every
non-finite value is the one NaN `0x7ff8000000000000`. ClickHouse's `xxHash64` of the same bytes is the same number.
`ta audit` recomputes the vectors of stored signals and compares these hashes.

## Storage

Every signal keeps its vector's hash. Full vectors go to `features_1m|15m|1h` for the symbols of
`market.store_features`, one Float64 column per feature. 30 days of ETHUSDT, merged: 294 bytes a row of 1m after
compression, 297 of 15m, 298 of 1h (387 before): 154 MB a symbol and year for the minutes. Yours:

```
ta sql "select table, sum(data_compressed_bytes) / sum(rows) from system.parts
        where active and table like 'features%' group by table"
```

Training does not read these tables: it folds candles (`benchmarks/test_features.py` times a symbol-year).

## Parity

`ta audit [--symbol S] [--from T] [--to T]` recomputes the live vectors of a range from the candles as first seen, from
the recorded first bars and with the samples as they arrived, and compares bit for bit: hashes of signals, stored
feature columns, and stored candles against those seen. Its result goes to `audits`, `GET /api/audit` and the metrics
`ta_audit_compared` and `ta_audit_differing`; `--halt` tells the running engine to stop the entries of symbols that fail
(gates `symbol_halted` and `audit_failed` in their signals; it outlives a restart), `ta allow SYMBOL` lifts it. It also
reports how far the fold over the whole stored history is from the live one. `ta features --symbol S --out F` writes
batch vectors. History that the engine was started on (bar and sample files) is stored by control when a run begins and
by the audit itself, so an audit needs no collection before it.

## Targets

A model set predicts, in this order: {targets}.
"""


def page() -> str:
    """Return the whole page."""
    lines = [
        _INTRO.format(
            version=SCHEMA_VERSION,
            hash=SCHEMA_HASH,
            own=READY_OWN_BARS,
            btc=READY_BTC_BARS,
            k=", ".join(map(str, FUNDING_RATES)),
        )
    ]
    for family in FAMILIES:
        lines.append(f"\n## {family.capitalize()}\n")
        lines.append("| # | name | formula | window | first bar | source |")
        lines.append("|---|---|---|---|---|---|")
        for number, feature in enumerate(SCHEMA):
            if feature.family == family:
                formula = feature.formula.replace("|", "\\|")
                lines.append(
                    f"| {number} | `{feature.name}` | {formula} | {feature.window} | {feature.first_bar} "
                    f"| {feature.source} |"
                )
    lines.append(_OUTRO.format(targets=", ".join(f"`{name}`" for name in TARGETS)))
    return "\n".join(lines)


if __name__ == "__main__":
    print(page(), end="")
