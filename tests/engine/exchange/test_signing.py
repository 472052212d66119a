"""Signatures against the exchange's published vector and against independent verification."""

from __future__ import annotations

import base64
import hashlib
import hmac
from urllib.parse import parse_qsl, unquote

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine.errors import ConfigError
from engine.exchange.requests import Call, NakedExitError, canary_stop, entry_order, exit_order, protective_stop
from engine.exchange.signing import Ed25519Signer, HmacSigner, make_signer, signed_params, signed_query

SECRET = "2b5eb11e18796d12d88f13dc27dbbd02c2cc51ff7059765ed9821957d82bb4d9"
PAYLOAD = (
    "symbol=BTCUSDT&side=BUY&type=LIMIT&quantity=1&price=9000&timeInForce=GTC&recvWindow=5000&timestamp=1591702613943"
)
SIGNATURE = "3c661234138461fcc7a7d8746c6558c9842d4e10870d2ecbedf7777cad694af9"


def pem(key: object) -> str:
    return key.private_bytes(  # type: ignore[attr-defined]
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()


def test_the_published_vector() -> None:
    assert HmacSigner(SECRET).sign(PAYLOAD.encode()) == SIGNATURE
    params = dict(parse_qsl(PAYLOAD))
    assert signed_query(params, make_signer(SECRET)) == f"{PAYLOAD}&signature={SIGNATURE}"


def test_ws_params_are_signed_sorted_and_unencoded() -> None:
    params = {"symbol": "币安人生USDT", "side": "BUY", "apiKey": "k", "timestamp": 5}
    signed = signed_params(params, HmacSigner("s"))
    expected = hmac.new(b"s", "apiKey=k&side=BUY&symbol=币安人生USDT&timestamp=5".encode(), hashlib.sha256).hexdigest()
    assert signed == {**params, "signature": expected}


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_hmac_equals_the_standard_library(length: int) -> None:
    secret = "sécret" * 40
    signer = HmacSigner(secret[:length])
    for payload in (b"", PAYLOAD.encode(), PAYLOAD.encode() * 5):
        expected = hmac.new(secret[:length].encode(), payload, hashlib.sha256).hexdigest()
        assert signer.sign(payload) == signer.sign(payload) == expected


def test_ed25519_verifies_over_the_encoded_bytes() -> None:
    key = Ed25519PrivateKey.generate()
    signer = make_signer(pem(key))
    assert isinstance(signer, Ed25519Signer)
    assert signer.session_logon
    query = signed_query({"symbol": "币安人生USDT", "timestamp": 5}, signer)
    payload, _, signature = query.rpartition("&signature=")
    assert "%E5%B8%81" in payload
    key.public_key().verify(base64.b64decode(unquote(signature)), payload.encode())


@pytest.mark.parametrize("secret", ["", "-----BEGIN PRIVATE KEY-----\nnonsense\n-----END PRIVATE KEY-----"])
def test_unusable_secrets_refuse_without_showing_themselves(secret: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_signer(secret)
    assert "nonsense" not in str(caught.value)


def test_an_rsa_key_is_refused_by_name() -> None:
    with pytest.raises(ConfigError, match="Ed25519"):
        make_signer(pem(rsa.generate_private_key(65537, 2048)))


def test_an_exit_without_reduce_only_cannot_be_serialised() -> None:
    with pytest.raises(NakedExitError):
        exit_order("BTCUSDT", -1, "1", "ta-main-1-2-x", False)
    with pytest.raises(NakedExitError):
        exit_order("BTCUSDT", -1, "1", "ta-main-1-2-e", True)
    with pytest.raises(NakedExitError):
        entry_order("BTCUSDT", 1, "1", "9000", "ta-main-1-2-x")
    for price in ("", "8999.5"):
        order = exit_order("BTCUSDT", -1, "1", "ta-main-1-2-x", True, price)
        assert order.call is Call.ORDER_PLACE
        assert order.params["reduceOnly"] == "true"
        assert ("timeInForce" in order.params) == bool(price)


def test_a_protective_stop_carries_neither_quantity_nor_reduce_only() -> None:
    stop = protective_stop("BTCUSDT", 1, "8000.0", "ta-main-1-2-p").params
    assert (stop["side"], stop["closePosition"], stop["workingType"]) == ("SELL", "true", "MARK_PRICE")
    assert not {"quantity", "reduceOnly", "price"} & set(stop)
    assert protective_stop("BTCUSDT", -1, "1", "x").params["side"] == "BUY"
    assert canary_stop("BTCUSDT", "0.001", "1000.0", "cnry-1").params["reduceOnly"] == "true"
