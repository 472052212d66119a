"""Checks signatures over the very bytes that were received: HMAC-SHA256, RSA (PKCS#1 v1.5) and Ed25519."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from urllib.parse import unquote

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, padding, rsa

from engine.simulator.errors import Refusal

BAD = "Signature for this request is not valid."


def split_signature(query: str, body: str) -> tuple[bytes, str]:
    """Return (signed payload, signature): query and body joined without a separator, the signature taken out."""
    signature, kept = "", []
    for text in (query, body):
        parts = text.split("&") if text else []
        found = [part[10:] for part in parts if part.startswith("signature=")]
        if found:
            signature = signature or unquote(found[-1].replace("+", "%2B"))
        kept.append("&".join(part for part in parts if not part.startswith("signature=")))
    return "".join(kept).encode(), signature


def verify(secret: str, payload: bytes, signature: str) -> None:
    """Refuse (−1022) unless `signature` is `secret`'s: an HMAC secret, or the PEM of an RSA or Ed25519 public key."""
    if not signature:
        raise Refusal(-1102, "Mandatory parameter 'signature' was not sent, was empty/null, or malformed.")
    if "BEGIN PUBLIC KEY" in secret:
        _verify_asymmetric(secret, payload, signature)
        return
    expected = hmac.new(secret.encode(), payload, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(expected.encode(), signature.lower().encode()):
        raise Refusal(-1022, BAD)


def is_ed25519(secret: str) -> bool:
    """Return whether the account's key is an Ed25519 one: only those may log on."""
    if "BEGIN PUBLIC KEY" not in secret:
        return False
    return isinstance(serialization.load_pem_public_key(secret.encode()), ed25519.Ed25519PublicKey)


def _verify_asymmetric(pem: str, payload: bytes, signature: str) -> None:
    key = serialization.load_pem_public_key(pem.encode())
    try:
        data = base64.b64decode(signature, validate=True)
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(data, payload)
        elif isinstance(key, rsa.RSAPublicKey):
            key.verify(data, payload, padding.PKCS1v15(), hashes.SHA256())
        else:
            raise Refusal(-1022, BAD)
    except (InvalidSignature, binascii.Error, ValueError) as error:
        raise Refusal(-1022, BAD) from error
