from __future__ import annotations

import json
import secrets
from itertools import count
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed448, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from app.errors import InvalidRequest
from app.model.devices import Algorithm
from app.model.secrets import ClientSecret, Secret
from app.service import verification_keys

WRITERS: dict[Algorithm, Any] = {
    Algorithm.ES256: ECAlgorithm,
    Algorithm.EDDSA: OKPAlgorithm,
    Algorithm.RS256: RSAAlgorithm,
}
PAIRS = {algorithm: verification_keys.new_pair(algorithm) for algorithm in WRITERS}


def jwk(algorithm: Algorithm, *, private: bool = False, **more: object) -> str:
    """Write one of the keys as a JWK; ``more`` is added, and None takes a member away."""
    key: Any = load_pem_private_key(PAIRS[algorithm][0].reveal().encode(), None)
    members = WRITERS[algorithm].to_jwk(key if private else key.public_key(), as_dict=True) | more
    members.pop("key_ops", None)
    return json.dumps({name: value for name, value in members.items() if value is not None})


@pytest.mark.parametrize("algorithm", WRITERS)
def test_a_public_key_tells_what_it_is_for(algorithm: Algorithm) -> None:
    """As PEM and as a JWK, with and without alg, a key is read as one of its algorithm, and comes out the same."""
    public = PAIRS[algorithm][1]
    texts = [public.reveal(), jwk(algorithm), f"\n  {jwk(algorithm, alg=algorithm.value, use='sig', kid='1')}\n"]
    for text in texts:
        assert verification_keys.read_public_key(text) == (algorithm, public)


def test_both_names_of_eddsa_are_known() -> None:
    """RFC 9864 calls it by the curve."""
    assert verification_keys.read_public_key(jwk(Algorithm.EDDSA, alg="Ed25519"))[0] is Algorithm.EDDSA


@pytest.mark.parametrize("algorithm", WRITERS)
@pytest.mark.parametrize("as_jwk", [False, True])
def test_a_private_key_is_refused_and_not_repeated(algorithm: Algorithm, *, as_jwk: bool) -> None:
    """The sentence says that the private half must not be sent, and holds nothing of it."""
    text = jwk(algorithm, private=True) if as_jwk else PAIRS[algorithm][0].reveal()
    with pytest.raises(InvalidRequest, match="private key, which must not leave its device") as caught:
        verification_keys.read_public_key(text)
    assert text[60:80] not in caught.value.description + caught.value.cause


def test_a_shared_secret_is_refused() -> None:
    """A symmetric JWK is no public key, and is not taken for a secret either."""
    with pytest.raises(InvalidRequest, match=r"shared secret .* do not send it"):
        verification_keys.read_public_key('{"kty": "oct", "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMko"}')


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("", "not a valid public key"),
        ("ssh-ed25519 AAAA", "not a valid public key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "not a valid public key"),
        ("{", "not a valid JWK: expected"),
        ("{} {}", "not a valid JWK: expected"),
        ('{"kty": "EC"', "not a valid JWK: expected"),
        ("{" * 5000, "not a valid JWK: expected"),
        (f'{{"kty": "EC", "x": {"[" * 5000}{"]" * 5000}}}', "deep nesting"),
        ("{}", "kty"),
        ('{"kty": 1}', "kty"),
        ('{"kty": null}', "kty"),
        ('{"kty": ["EC"]}', "kty"),
        ('{"kty": "EC2"}', "kty"),
        ('{"keys": []}', "a JWK set"),
        ('{"kty": "EC"}', "incomplete"),
        ('{"kty": "RSA", "n": 5, "e": "AQAB"}', "incomplete"),
        ('{"kty": "RSA", "n": "", "e": ""}', "incomplete"),
        ('{"kty": "RSA", "n": "AQAB", "e": "AQAB"}', "incomplete"),
        ('{"kty": "OKP", "crv": "X25519", "x": "AAAA"}', "incomplete"),
        ('{"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}', "incomplete"),
        (jwk(Algorithm.ES256, crv="secp256k1"), "incomplete"),
        (jwk(Algorithm.ES256, x="!!!"), "incomplete"),
        (jwk(Algorithm.ES256, y=jwk(Algorithm.ES256)), "incomplete"),
        (jwk(Algorithm.ES256, use="enc"), "use"),
        (jwk(Algorithm.ES256, alg="ES384"), "alg"),
        (jwk(Algorithm.ES256, alg="HS256"), "alg"),
        (jwk(Algorithm.ES256, alg=256), "alg"),
        (jwk(Algorithm.ES256, alg="RS256"), "alg"),
        (jwk(Algorithm.RS256, alg="PS256"), "alg"),
    ],
    ids=count(),  # keys are drawn anew in each process
)
def test_what_is_no_key_is_refused_with_the_cure(text: str, complaint: str) -> None:
    """Whatever is wrong with it, the refusal says which part."""
    with pytest.raises(InvalidRequest, match=complaint):
        verification_keys.read_public_key(text)


@pytest.mark.parametrize(
    ("key", "complaint"),
    [
        (ec.generate_private_key(ec.SECP384R1()).public_key(), "P-256"),
        (rsa.generate_private_key(65537, 1024).public_key(), "2048"),  # noqa: S505 (weak on purpose)
        (rsa.RSAPublicNumbers(2**1023 + 1, 2**2047 + 1).public_key(), "65537"),
        (ed448.Ed448PrivateKey.generate().public_key(), "expected P-256, Ed25519 or RSA"),
    ],
)
def test_a_key_of_another_kind_is_refused_in_either_form(key: Any, complaint: str) -> None:
    """Other curves and weak keys are refused as PEM; those that a JWK can hold, as one too."""
    with pytest.raises(InvalidRequest, match=complaint):
        verification_keys.read_public_key(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())
    writer = {ec.EllipticCurvePublicKey: ECAlgorithm, rsa.RSAPublicKey: RSAAlgorithm}
    for type_, algorithm in writer.items():
        if isinstance(key, type_):
            with pytest.raises(InvalidRequest, match=complaint):
                verification_keys.read_public_key(algorithm.to_jwk(key))  # type: ignore[attr-defined]


def test_what_is_read_can_be_registered() -> None:
    """The key that comes out is one that registering takes."""
    algorithm, pem = verification_keys.read_public_key(jwk(Algorithm.ES256))
    assert verification_keys.check_public_key(pem.reveal(), algorithm) == pem
    assert isinstance(pem, Secret)


@pytest.mark.parametrize("public", [PAIRS[Algorithm.RS256][1].reveal(), jwk(Algorithm.ES256)])
def test_a_public_key_is_never_a_shared_secret(public: str) -> None:
    """Who knows a public key cannot sign with it as if it were the secret, at the second try either."""
    with pytest.raises(InvalidRequest, match="is a key or certificate"):
        verification_keys.check_secret(ClientSecret(public))
    secret = verification_keys.prepared(Algorithm.HS256, Secret(public))
    assert isinstance(secret, bytes)
    signed = jwt.encode({"sub": "d"}, secrets.token_bytes(32), "HS256")
    for _ in range(2):
        with pytest.raises(jwt.InvalidKeyError):
            jwt.decode(signed, secret, algorithms=["HS256"])
