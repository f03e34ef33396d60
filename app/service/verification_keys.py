"""Device keys: generating them, checking them at registration, and preparing them for verification."""

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
from jwt import register_algorithm, unregister_algorithm
from jwt.algorithms import ECAlgorithm, HMACAlgorithm, OKPAlgorithm, RSAAlgorithm
from jwt.exceptions import InvalidKeyError, PyJWTError

from app.errors import InvalidRequest
from app.model.devices import MIN_SECRET_BYTES, Algorithm
from app.model.secrets import ClientSecret, Secret
from app.model.text import _

PublicKey = EllipticCurvePublicKey | Ed25519PublicKey | RSAPublicKey
VerificationKey = bytes | PublicKey

MIN_RSA_BITS: Final = 2048
MAX_RSA_BITS: Final = 4096
MAX_RSA_EXPONENT_BITS: Final = 32
"""With an exponent as long as the modulus, refusing a random signature would take a hundred times as long."""

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


class _SecretCheckedOnce(HMACAlgorithm):
    """HS256 that checks a secret once and not at each assertion: that was a quarter of what verifying one takes.

    The check refuses a public key as a secret: everyone who has it could sign. Only a secret that passed is remembered.
    """

    prepare_key = lru_cache(maxsize=10_000)(HMACAlgorithm.prepare_key)


unregister_algorithm(Algorithm.HS256.value)
register_algorithm(Algorithm.HS256.value, _SecretCheckedOnce(HMACAlgorithm.SHA256))


def new_secret() -> ClientSecret:
    """Generate a shared secret of 256 bits, in characters that need no escaping anywhere."""
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
    try:
        HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(secret.reveal())
    except InvalidKeyError:
        # A public key is known to others, and no assertion would be accepted under it.
        raise InvalidRequest(
            _("the secret is a key or certificate: register it as the public key, or send random bytes")
        ) from None
    size = len(secret.reveal().encode())
    if size < MIN_SECRET_BYTES:
        raise InvalidRequest(
            _(
                "the secret has %(size)s bytes: HS256 needs at least %(least)s random bytes",
                size=size,
                least=MIN_SECRET_BYTES,
            )
        )
    return secret


def check_public_key(pem: str, algorithm: Algorithm) -> Secret:
    """Check a public key that was generated elsewhere, and return it in one form. Raises ``InvalidRequest``."""
    return _public_pem(_fitting(_from_pem(pem), algorithm))


def read_public_key(text: str) -> tuple[Algorithm, Secret]:
    """Read a public key as PEM or as a JWK (RFC 7517); returns its algorithm, and the key as PEM.

    Raises ``InvalidRequest``, which quotes no part of the text: that may be a private key.
    """
    if text.lstrip().startswith("{"):
        key, said = _from_jwk(text)
    else:
        key, said = _from_pem(text), None
    algorithm = next(each for each, type_ in _PUBLIC_TYPES.items() if isinstance(key, type_))
    _fitting(key, algorithm)
    if said not in {None, algorithm}:
        raise InvalidRequest(
            _("the JWK's alg does not fit its key, which is for %(algorithm)s", algorithm=algorithm.value)
        )
    return algorithm, _public_pem(key)


def _from_pem(pem: str) -> PublicKey:
    if "PRIVATE KEY" in pem:
        raise _private()
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        raise InvalidRequest(_("not a valid public key: expected PEM with BEGIN PUBLIC KEY, or a JWK")) from None
    if not isinstance(key, _ANY_PUBLIC_TYPE):
        raise InvalidRequest(_("not a supported kind of key: expected P-256, Ed25519 or RSA"))
    return key


def _from_jwk(text: str) -> tuple[PublicKey, Algorithm | None]:
    """Read a JWK, and the algorithm that it names, if any (RFC 7517 section 4, RFC 7518 section 6)."""
    try:
        jwk = msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        raise InvalidRequest(_("not a valid JWK: expected a JSON object without deep nesting")) from None
    if "keys" in jwk:
        raise InvalidRequest(_("this is a JWK set: send the single JWK of the device"))
    if jwk.get("kty") == "oct":
        # The field for a public key may be seen by anyone, so a secret that was pasted there is not secret any more.
        raise InvalidRequest(
            _("this JWK is a shared secret (kty oct): do not send it, and have a new one generated here")
        )
    if _JWK_PRIVATE & jwk.keys():
        raise _private()
    reader = _JWK_KINDS.get(jwk["kty"]) if isinstance(jwk.get("kty"), str) else None
    if reader is None:
        raise InvalidRequest(_("the JWK's kty must be EC, OKP or RSA"))
    if jwk.get("use", "sig") != "sig":
        raise InvalidRequest(_("the JWK is not for signatures: its use must be sig, or left out"))
    said = jwk.get("alg")
    if said is not None and (not isinstance(said, str) or said not in _JWK_ALGORITHMS):
        raise InvalidRequest(
            _("the JWK's alg must be one of %(algorithms)s, or left out", algorithms=", ".join(_JWK_ALGORITHMS))
        )
    try:
        key = reader.from_jwk(jwk)
    except (PyJWTError, UnsupportedAlgorithm, ValueError, TypeError, KeyError):
        key = None
    if not isinstance(key, _ANY_PUBLIC_TYPE):
        raise InvalidRequest(_("not a valid JWK: it is incomplete, or not on the curve P-256 or Ed25519"))
    return key, _JWK_ALGORITHMS[said] if said else None


def _private() -> InvalidRequest:
    # A private key proves nothing any more once it was sent: it must never leave its device.
    return InvalidRequest(_("this is a private key, which must not leave its device: register the public key"))


def _fitting(key: PublicKey, algorithm: Algorithm) -> PublicKey:
    """Check that a key fits ``algorithm``. Raises ``InvalidRequest``."""
    if not isinstance(key, _PUBLIC_TYPES[algorithm]):
        raise InvalidRequest(_("the public key does not fit %(algorithm)s", algorithm=algorithm.value))
    if isinstance(key, EllipticCurvePublicKey) and not isinstance(key.curve, SECP256R1):
        raise InvalidRequest(_("ES256 needs a key on the curve P-256"))
    if isinstance(key, RSAPublicKey) and not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
        raise InvalidRequest(
            _(
                "RS256 needs a key of %(least)s to %(most)s bits: this one has %(size)s",
                least=MIN_RSA_BITS,
                most=MAX_RSA_BITS,
                size=key.key_size,
            )
        )
    if isinstance(key, RSAPublicKey) and key.public_numbers().e.bit_length() > MAX_RSA_EXPONENT_BITS:
        raise InvalidRequest(_("RS256 needs a key with a small exponent, such as %(exponent)s", exponent=_RSA_EXPONENT))
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
    """Return a key for unknown callers: checking their proof takes as long, and fails."""
    if algorithm is Algorithm.RS256:
        # Only its size matters, for the time that a check takes; generating a real pair would block the event loop.
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
