"""The schema: its names, its hash, and the page generated from it."""

from __future__ import annotations

from pathlib import Path

from kernels import schema
from kernels.schema_page import page

ROOT = Path(__file__).resolve().parents[2]


def test_order_and_names() -> None:
    assert len(schema.FEATURES) == len(set(schema.FEATURES)) == 132
    assert (
        schema.FEATURES[0] == "ret_1_1m"
        and schema.FEATURES[44] == "ret_1_15m"
        and schema.FEATURES[131] == "btc_rel_60_1h"
    )
    assert schema.FEATURES[44 + 23] == "rsi_15m"
    assert {feature.family for feature in schema.SCHEMA} == set(schema.FAMILIES)
    assert [schema.NAMES.index(x) for x in ("atr", "adx", "rsi", "volume_ma_ratio", "oi_change")] == [8, 16, 23, 32, 38]
    assert len(schema.TARGETS) == 8


def test_the_hash_follows_version_names_and_order() -> None:
    """The committed value: a change of the schema must be made on purpose, with a new version."""
    assert schema.SCHEMA_HASH == schema.schema_hash() < 1 << 64
    assert schema.schema_hash(version=schema.SCHEMA_VERSION + 1) != schema.SCHEMA_HASH
    swapped = (schema.FEATURES[1], schema.FEATURES[0], *schema.FEATURES[2:])
    assert schema.schema_hash(features=swapped) != schema.SCHEMA_HASH
    assert schema.SCHEMA_HASH == 0x81260CFF57A31352


def test_ready_and_may_be_nan() -> None:
    assert (schema.READY_OWN_BARS, schema.READY_BTC_BARS) == (74, 200)
    assert {"oi_change_1m", "funding_z_1h", "taker_buy_ratio_15m", "mfi_1m"} <= schema.MAY_BE_NAN
    assert not {"rsi_1m", "btc_regime_1h", "btc_corr_60_1m"} & schema.MAY_BE_NAN
    assert schema.PRICE_UNIT_FEATURES == ("atr_1m", "atr_15m", "atr_1h")


def test_the_page_is_current() -> None:
    written = (ROOT / "docs" / "features.md").read_text()
    assert written == page(), "run: python -m kernels.schema_page > docs/features.md"
    for name in schema.NAMES:
        assert f"`{name}`" in written
