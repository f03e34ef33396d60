"""Device keys: made, checked at registration, and prepared for verifying."""

from __future__ import annotations

import secrets
from functools import lru_cache
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePublicKey,
    EllipticCurvePublicNumbers,
)
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey, RSAPublicNumbers
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa_key
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_public_key,
)

from app.errors import InvalidRequest
from app.model.devices import MIN_SECRET_BYTES, Algorithm
from app.model.secrets import ClientSecret, Secret

VerificationKey = bytes | EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 4096
_RSA_EXPONENT: Final = 65_537
_ANY_PUBLIC_TYPE: Final = (EllipticCurvePublicKey, Ed25519PublicKey, RSAPublicKey)
_PUBLIC_TYPES: Final[dict[Algorithm, type]] = {
    Algorithm.ES256: EllipticCurvePublicKey,
    Algorithm.EDDSA: Ed25519PublicKey,
    Algorithm.RS256: RSAPublicKey,
}


def new_secret() -> ClientSecret:
    """Draw a shared secret of 256 bits, in characters that need no escaping anywhere."""
    return ClientSecret(secrets.token_urlsafe(32))


def new_pair(algorithm: Algorithm) -> tuple[ClientSecret, Secret]:
    """Make a key pair; returns the private key and the public key as PEM. Takes long for RS256: call it in a thread."""
    if algorithm is Algorithm.ES256:
        private: object = generate_ec_key(SECP256R1())
    elif algorithm is Algorithm.EDDSA:
        private = Ed25519PrivateKey.generate()
    else:
        private = generate_rsa_key(_RSA_EXPONENT, MIN_RSA_BITS)
    pem = private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()  # type: ignore[attr-defined]
    return ClientSecret(pem), _public_pem(private.public_key())  # type: ignore[attr-defined]


def check_secret(secret: ClientSecret) -> ClientSecret:
    """Check a shared secret chosen elsewhere (RFC 7518 3.2). Raises ``InvalidRequest``."""
    size = len(secret.reveal().encode())
    if size < MIN_SECRET_BYTES:
        raise InvalidRequest(f"the secret has {size} bytes; HS256 needs {MIN_SECRET_BYTES} or more, drawn at random")
    return secret


def check_public_key(pem: str, algorithm: Algorithm) -> Secret:
    """Check a public key made elsewhere, and return it in one form. Raises ``InvalidRequest`` with the cure."""
    if "PRIVATE KEY" in pem:
        # The private half must stay with the device: what was sent here once is no proof any more.
        raise InvalidRequest("this is a private key, which never leaves its device: register the public half")
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidRequest("the public key is no PEM of the form BEGIN PUBLIC KEY") from None
    if not isinstance(key, _ANY_PUBLIC_TYPE) or not isinstance(key, _PUBLIC_TYPES[algorithm]):
        raise InvalidRequest(f"the public key is not one for {algorithm}")
    if isinstance(key, EllipticCurvePublicKey) and not isinstance(key.curve, SECP256R1):
        raise InvalidRequest("ES256 takes a key on the curve P-256")
    if isinstance(key, RSAPublicKey) and not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise InvalidRequest(f"RS256 takes a key of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, not {key.key_size}")
    return _public_pem(key)


@lru_cache(maxsize=10_000)
def prepared(algorithm: Algorithm, key: Secret) -> VerificationKey:
    """Return a registered key in the form verifying takes; parsing a PEM costs as much as a signature."""
    if algorithm.symmetric:
        return key.reveal().encode()
    loaded = load_pem_public_key(key.reveal().encode())
    if not isinstance(loaded, _ANY_PUBLIC_TYPE):
        raise TypeError(f"a registered key is of the type {type(loaded).__name__}")
    return loaded


@lru_cache
def decoy(algorithm: Algorithm) -> VerificationKey:
    """Return a key nobody has the other half of: an unknown caller's proof is checked against it, and fails."""
    if algorithm is Algorithm.RS256:
        # Only its size matters, for the time a check takes; making a real pair would hold up the loop.
        modulus = secrets.randbits(MIN_RSA_BITS) | 1 | 1 << (MIN_RSA_BITS - 1)
        return RSAPublicNumbers(_RSA_EXPONENT, modulus).public_key()
    if algorithm is Algorithm.ES256:
        numbers: EllipticCurvePublicNumbers = generate_ec_key(SECP256R1()).public_key().public_numbers()
        return numbers.public_key()
    if algorithm is Algorithm.EDDSA:
        return Ed25519PrivateKey.generate().public_key()
    return secrets.token_bytes(MIN_SECRET_BYTES)


def _public_pem(key: EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey) -> Secret:
    return Secret(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())
