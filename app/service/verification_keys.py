"""Device keys: made, checked at registration, and prepared for verifying."""

from __future__ import annotations

import secrets
from functools import lru_cache
from typing import Any, Final

import msgspec
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
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import PyJWTError

from app.errors import InvalidRequest
from app.model.devices import MIN_SECRET_BYTES, Algorithm
from app.model.secrets import ClientSecret, Secret

PublicKey = EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey
VerificationKey = bytes | PublicKey

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 4096
MAX_RSA_EXPONENT_BITS: Final = 32
"""By one as long as the modulus a stranger's nonsense takes a hundred times as long to refuse."""

_RSA_EXPONENT: Final = 65_537
_ANY_PUBLIC_TYPE: Final = (EllipticCurvePublicKey, Ed25519PublicKey, RSAPublicKey)
_PUBLIC_TYPES: Final[dict[Algorithm, type]] = {
    Algorithm.ES256: EllipticCurvePublicKey,
    Algorithm.EDDSA: Ed25519PublicKey,
    Algorithm.RS256: RSAPublicKey,
}
_JWK_KINDS: Final[dict[str, Any]] = {"EC": ECAlgorithm, "OKP": OKPAlgorithm, "RSA": RSAAlgorithm}
_JWK_PRIVATE: Final = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth", "k"})
"""Members that only a private or shared key has (RFC 7518 section 6)."""
_JWK_ALGORITHMS: Final = {algorithm.value: algorithm for algorithm in _PUBLIC_TYPES} | {"Ed25519": Algorithm.EDDSA}
"""The algorithms by their names in a JWK; RFC 9864 has a second one for EdDSA with Ed25519."""


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
    return _public_pem(_fitting(_from_pem(pem), algorithm))


def read_public_key(text: str) -> tuple[Algorithm, Secret]:
    """Read a public key as PEM or as a JWK (RFC 7517); returns what it is for, and the key as PEM.

    Raises ``InvalidRequest`` with the cure; no part of the text is in it, for it may be the private half.
    """
    if text.lstrip().startswith("{"):
        key, said = _from_jwk(text)
    else:
        key, said = _from_pem(text), None
    algorithm = next(each for each, type_ in _PUBLIC_TYPES.items() if isinstance(key, type_))
    _fitting(key, algorithm)
    if said not in {None, algorithm}:
        raise InvalidRequest(f"the JWK's alg is not for a key of this kind, which is for {algorithm}")
    return algorithm, _public_pem(key)


def _from_pem(pem: str) -> PublicKey:
    if "PRIVATE KEY" in pem:
        raise _private()
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidRequest("the public key is no PEM of the form BEGIN PUBLIC KEY") from None
    if not isinstance(key, _ANY_PUBLIC_TYPE):
        raise InvalidRequest("a device's key is on the curve P-256, an Ed25519 key, or RSA")
    return key


def _from_jwk(text: str) -> tuple[PublicKey, Algorithm | None]:
    """Read a JWK, and which algorithm it says it is for, if it does (RFC 7517 section 4, RFC 7518 section 6)."""
    try:
        jwk = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise InvalidRequest("the public key is no JWK: it is no JSON object, or a very deep one") from None
    if "keys" in jwk:
        raise InvalidRequest("this is a set of keys: send the one JWK that is the device's")
    if jwk.get("kty") == "oct":
        # A public key is for everybody's eyes; who sends a shared secret in its place has just shown it to a clipboard.
        raise InvalidRequest("this JWK is a shared secret (kty oct), which must not be sent: have one made here")
    if _JWK_PRIVATE & jwk.keys():
        raise _private()
    reader = _JWK_KINDS.get(jwk["kty"]) if isinstance(jwk.get("kty"), str) else None
    if reader is None:
        raise InvalidRequest("the JWK's kty must be EC, OKP or RSA")
    if jwk.get("use", "sig") != "sig":
        raise InvalidRequest("the JWK's use must be sig, or left out: this key is not for signatures")
    said = jwk.get("alg")
    if said is not None and (not isinstance(said, str) or said not in _JWK_ALGORITHMS):
        raise InvalidRequest(f"the JWK's alg must be one of {', '.join(_JWK_ALGORITHMS)}, or left out")
    try:
        key = reader.from_jwk(jwk)
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
        key = None
    if not isinstance(key, _ANY_PUBLIC_TYPE):
        raise InvalidRequest("the JWK is incomplete, broken, or on another curve than P-256 and Ed25519")
    return key, _JWK_ALGORITHMS[said] if said else None


def _private() -> InvalidRequest:
    # The private half must stay with the device: what was sent here once is no proof any more.
    return InvalidRequest("this is a private key, which never leaves its device: register the public half")


def _fitting(key: PublicKey, algorithm: Algorithm) -> PublicKey:
    """See that a key is one for ``algorithm``. Raises ``InvalidRequest``."""
    if not isinstance(key, _PUBLIC_TYPES[algorithm]):
        raise InvalidRequest(f"the public key is not one for {algorithm}")
    if isinstance(key, EllipticCurvePublicKey) and not isinstance(key.curve, SECP256R1):
        raise InvalidRequest("ES256 takes a key on the curve P-256")
    if isinstance(key, RSAPublicKey) and not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise InvalidRequest(f"RS256 takes a key of {MIN_RSA_BITS} to {MAX_RSA_BITS} bits, not {key.key_size}")
    if isinstance(key, RSAPublicKey) and key.public_numbers().e.bit_length() > MAX_RSA_EXPONENT_BITS:
        raise InvalidRequest(f"RS256 takes a key whose exponent is {_RSA_EXPONENT}, or another small one")
    return key


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


def _public_pem(key: PublicKey) -> Secret:
    return Secret(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())
