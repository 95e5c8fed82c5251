"""Bearer JWTs, both ways against PyJWT: what it makes is accepted, what we make it accepts."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any

import jwt
import msgspec
import pytest
from click.testing import CliRunner
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.cli import main
from gateway.config import loader, show
from gateway.errors import SignatureRefused
from gateway.webhooks.checks.jwt import MAX_KEYS
from gateway.webhooks.compile import verifier_for
from gateway.webhooks.presets import PRESETS
from gateway.webhooks.scheme import Scheme
from gateway.webhooks.sign import sign
from gateway.webhooks.signed import SignedRequest

NOW = 1_700_000_000
BODY = b'{"id":"evt_1"}'
SECRET = "a-secret-of-the-tests-of-32-bytes"
OTHER = "another-secret-of-the-tests-of-32"
KEYS_URL = "https://sender.example/.well-known/jwks.json"
P256 = ec.derive_private_key(0x5EED, ec.SECP256R1())
RSA = rsa.generate_private_key(public_exponent=65537, key_size=2048)
STRANGERS: dict[str, Any] = {
    "ES256": ec.derive_private_key(0xBAD, ec.SECP256R1()),
    "RS256": rsa.generate_private_key(public_exponent=65537, key_size=2048),
}
CLAIMS = {"iss": "shop", "aud": "gateway", "iat": NOW, "nbf": NOW, "exp": NOW + 60}
CLAIMS["sha"] = hashlib.sha256(BODY).hexdigest()
SCHEME = msgspec.structs.replace(
    PRESETS["jwt"], issuer="shop", audience="gateway", body_hash="sha", tolerance_seconds=30.0
)


def pem(key: Any) -> str:
    public = key.public_key()
    text: str = public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    return text


# algorithm of the JWT → ours, the sender's key, what stands in secrets
KINDS: dict[str, tuple[str, Any, str]] = {
    "HS256": ("sha256", SECRET, SECRET),
    "RS256": ("rsa-sha256", RSA, pem(RSA)),
    "ES256": ("ecdsa-sha256", P256, pem(P256)),
}


def scheme_of(kind: str, **changes: Any) -> Scheme:
    return msgspec.structs.replace(SCHEME, algorithm=KINDS[kind][0], **changes)


def token_of(kind: str, key: Any = None, head: dict[str, Any] | None = None, **claims: Any) -> str:
    told = {name: value for name, value in {**CLAIMS, **claims}.items() if value is not None}
    return jwt.encode(told, key or KINDS[kind][1], algorithm=kind, headers=head)


def judge(
    scheme: Scheme,
    token: str,
    *secrets: str,
    body: bytes = BODY,
    fetched: bytes = b"",
    now: float = NOW,
    header: str = "authorization",
) -> str:
    """Return "accepted N" with the secret's index, or why it was refused."""
    request = SignedRequest("POST", "/webhooks/v", {header: token}, body)
    verifier = verifier_for(scheme, secrets)
    try:
        assert (verifier.needs(request) is None) == (not verifier.fetches)
        return f"accepted {verifier.verify(request, now, fetched)}"
    except SignatureRefused as refusal:
        return refusal.reason


def bearer(kind: str, token: str, **more: Any) -> str:
    return judge(scheme_of(kind), f"Bearer {token}", KINDS[kind][2], **more)


def jwks(*keys: tuple[str, Any, dict[str, Any]]) -> bytes:
    found = []
    for kind, key, more in keys:
        algorithm: Any = jwt.algorithms.get_default_algorithms()[kind]
        found.append({**json.loads(algorithm.to_jwk(key.public_key())), **more})
    return json.dumps({"keys": found}).encode()


@pytest.mark.parametrize("kind", KINDS)
def test_what_pyjwt_makes_is_accepted(kind: str) -> None:
    assert bearer(kind, token_of(kind)) == "accepted 0"
    assert bearer(kind, token_of(kind, aud=["x", "gateway"])) == "accepted 0"


def test_what_we_make_pyjwt_accepts() -> None:
    headers = sign(SCHEME, SECRET, body=BODY, now=NOW, message_id="m_1")
    word, _, token = headers["Authorization"].partition(" ")
    found = jwt.decode(
        token,
        SECRET,
        algorithms=["HS256"],
        audience="gateway",
        issuer="shop",
        options={"require": ["exp", "iat", "jti"], "verify_exp": False},
    )
    assert (word, found["jti"], found["sha"]) == ("Bearer", "m_1", CLAIMS["sha"])
    assert found["exp"] > NOW
    assert bearer("HS256", token) == "accepted 0"


@pytest.mark.parametrize("kind", ["RS256", "ES256"])
def test_only_the_sender_makes_what_a_public_key_verifies(kind: str) -> None:
    with pytest.raises(ValueError, match="private key that only the sender holds"):
        sign(scheme_of(kind), KINDS[kind][2], body=BODY, now=NOW, message_id="m")


def test_any_of_several_secrets_may_match() -> None:
    token = f"Bearer {token_of('HS256')}"
    assert judge(SCHEME, token, OTHER, SECRET) == "accepted 1"
    assert judge(SCHEME, token, OTHER) == "the token's signature is not any secret's"


def test_another_header_and_prefix() -> None:
    scheme = msgspec.structs.replace(SCHEME, header=("X-Jwt", "X-Token"), prefix="")
    assert judge(scheme, token_of("HS256"), SECRET, header="x-token") == "accepted 0"
    assert judge(SCHEME, f"bearer {token_of('HS256')}", SECRET) == "accepted 0"
    assert "does not begin with" in judge(SCHEME, token_of("HS256"), SECRET)
    assert judge(SCHEME, "", SECRET) == "no header authorization"


# Which tokens are good ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": None}, "no exp in the token"),
        ({"exp": "soon"}, "exp of the token is no time"),
        ({"exp": True}, "exp of the token is no time"),
        ({"exp": NOW + 10**13}, "exp of the token is no time"),
        ({"exp": NOW - 30}, "the token expired 30 s ago, allowed are 30 s"),
        ({"exp": NOW - 29}, "accepted 0"),
        ({"exp": NOW + 0.5}, "accepted 0"),
        ({"nbf": NOW + 31}, "nbf of the token is 31 s in the future, allowed are 30 s"),
        ({"nbf": NOW + 30}, "accepted 0"),
        ({"nbf": [1]}, "nbf of the token is no time"),
        ({"iat": NOW + 31}, "iat of the token is 31 s in the future, allowed are 30 s"),
        ({"iat": NOW + 30}, "accepted 0"),
        ({"iat": None, "nbf": None}, "accepted 0"),
        ({"iss": None}, "iss of the token is not the issuer"),
        ({"iss": "Shop"}, "iss of the token is not the issuer"),
        ({"aud": None}, "aud of the token is not the audience"),
        ({"aud": "gateway2"}, "aud of the token is not the audience"),
        ({"aud": []}, "aud of the token is not the audience"),
        ({"sha": None}, "sha is not that of the body"),
        ({"sha": "é"}, "sha is not that of the body"),
        ({"sha": "0" * 64}, "sha is not that of the body"),
    ],
)
def test_claims(claims: dict[str, Any], reason: str) -> None:
    assert bearer("HS256", token_of("HS256", **claims)) == reason


times = st.integers(NOW - 100, NOW + 100) | st.none()
words = st.sampled_from(["gateway", "shop", "other"]) | st.none()


@settings(max_examples=300)
@given(
    times,
    times,
    times,
    words,
    words,
    st.sampled_from(["", "gateway"]),
    st.sampled_from(["", "shop"]),
)
def test_it_is_of_one_mind_with_pyjwt(
    exp: Any, nbf: Any, iat: Any, aud: Any, iss: Any, audience: str, issuer: str
) -> None:
    # PyJWT asks the clock itself, so the times are moved to now, with room for the test's own.
    import time

    scheme = msgspec.structs.replace(SCHEME, audience=audience, issuer=issuer)
    now = time.time()
    moved = {
        name: None if at is None else int(now) + (at - NOW)
        for name, at in (("exp", exp), ("nbf", nbf), ("iat", iat))
    }
    if any(at is not None and abs(abs(at - NOW) - 30) < 5 for at in (exp, nbf, iat)):
        return  # at the edge, which the table above tests
    token = token_of("HS256", aud=aud, iss=iss, **moved)
    try:
        jwt.decode(
            token,
            SECRET,
            algorithms=["HS256"],
            audience=audience or None,
            issuer=issuer or None,
            leeway=30,
            options={"require": ["exp"]},
        )
        expected = True
    except jwt.InvalidTokenError:
        expected = False
    assert judge(scheme, f"Bearer {token}", SECRET, now=now).startswith("accepted") == expected


def test_a_token_for_somebody_is_not_taken_by_anybody() -> None:
    anybody = msgspec.structs.replace(SCHEME, audience="")
    assert "none is configured" in judge(anybody, f"Bearer {token_of('HS256')}", SECRET)
    assert judge(anybody, f"Bearer {token_of('HS256', aud=None)}", SECRET) == "accepted 0"


# What a forger tries -----------------------------------------------------------------------------


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def made(head: object, key: bytes = b"") -> str:
    message = f"{b64(json.dumps(head).encode())}.{b64(json.dumps(CLAIMS).encode())}"
    return f"{message}.{b64(hmac.digest(key, message.encode(), 'sha256')) if key else ''}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["none", "None", "NONE", "HS256", "HS512", "RS256", "ES256", ""])
def test_a_token_cannot_choose_its_algorithm(kind: str, name: str) -> None:
    """Neither none, nor HS256 with the public key as the secret."""
    if name == kind == "HS256":
        return
    for key in (b"", b"x", KINDS[kind][2].encode(), KINDS[kind][2].strip().encode()):
        if name == kind == "RS256" and key:
            continue
        assert not bearer(kind, made({"alg": name}, key)).startswith("accepted")
        assert not bearer(kind, made({"alg": name}, key) + "AA").startswith("accepted")


def test_the_keys_that_a_token_carries_are_not_used() -> None:
    stranger = STRANGERS["ES256"]
    key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(stranger.public_key()))
    head = {"jwk": key, "jku": "https://evil.example/jwks.json", "x5u": "https://evil.example/c"}
    for more in ({}, {"keys_url": KEYS_URL}):
        scheme = scheme_of("ES256", **more)
        token = f"Bearer {token_of('ES256', stranger, head)}"
        told = jwks(("ES256", P256, {}))
        assert "signature is not" in judge(scheme, token, KINDS["ES256"][2], fetched=told)
        need = verifier_for(scheme, [KINDS["ES256"][2]]).needs(
            SignedRequest("POST", "/", {"authorization": token}, BODY)
        )
        assert need is None or need.url == KEYS_URL


def test_extensions_that_must_be_understood_are_refused() -> None:
    token = made({"alg": "HS256", "crit": ["exp"], "exp": 1}, SECRET.encode())
    assert "critical extensions" in bearer("HS256", token)


@pytest.mark.parametrize("kind", ["RS256", "ES256"])
def test_a_strangers_key_is_refused(kind: str) -> None:
    assert "signature is not" in bearer(kind, token_of(kind, STRANGERS[kind]))


TOKENS = {kind: token_of(kind) for kind in KINDS}
bits = st.integers(min_value=0, max_value=1 << 16)


def flipped(data: bytes, bit: int) -> bytes:
    bit %= len(data) * 8
    return bytes(byte ^ (1 << bit % 8) if i == bit // 8 else byte for i, byte in enumerate(data))


@settings(max_examples=600)
@given(st.sampled_from(sorted(KINDS)), bits, st.sampled_from(["token", "body", "bytes"]))
def test_a_flipped_bit_is_refused(kind: str, bit: int, where: str) -> None:
    token, body = TOKENS[kind], BODY
    if where == "body":
        body = flipped(BODY, bit)
    elif where == "token":  # a bit of the text
        token = flipped(token.encode(), bit).decode("latin-1")
    else:  # a bit of one of the three parts, spelled rightly again
        parts = [base64.urlsafe_b64decode(part + "==") for part in token.split(".")]
        number = bit % 3
        parts[number] = flipped(parts[number], bit // 3)
        token = ".".join(b64(part) for part in parts)
    assert not bearer(kind, token, body=body).startswith("accepted")


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_has_one_spelling(kind: str) -> None:
    token = TOKENS[kind]
    for last in set("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_="):
        other = token[:-1] + last
        assert bearer(kind, other).startswith("accepted") == (other == token), other[-3:]
    assert not bearer(kind, token + "=").startswith("accepted")


@settings(max_examples=300)
@given(
    st.sampled_from(sorted(KINDS)),
    st.text(max_size=60)
    | st.text("ey.AQw-_=", max_size=40)
    | st.builds(
        made,
        st.dictionaries(
            st.sampled_from(["alg", "kid", "crit", "typ"]),
            st.text(max_size=5) | st.none() | st.integers(),
        ),
    ),
)
def test_junk_raises_nothing_but_a_refusal(kind: str, text: str) -> None:
    for header in (text, f"Bearer {text}"):
        assert not judge(scheme_of(kind), header, KINDS[kind][2]).startswith("accepted")


# Keys that the sender tells ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["RS256", "ES256"])
def test_the_key_is_the_one_that_the_token_names(kind: str) -> None:
    scheme = scheme_of(kind, keys_url=KEYS_URL)
    mine, other = (kind, KINDS[kind][1], {"kid": "k1"}), (kind, STRANGERS[kind], {"kid": "k2"})
    both = jwks(other, mine)

    def told(fetched: bytes, **head: Any) -> str:
        return judge(scheme, f"Bearer {token_of(kind, None, head)}", fetched=fetched)

    assert told(both, kid="k1") == "accepted 0"
    assert told(both) == "accepted 0"
    no = "the token's signature is not any that keys_url tells"
    assert told(both, kid="k2") == told(both, kid="k3") == told(jwks(other), kid="k1") == no
    for unfit in ({"use": "enc"}, {"alg": "PS256"}, {"kty": "oct"}, {"n": "", "x": ""}, {"kid": 1}):
        assert told(jwks((kind, KINDS[kind][1], {"kid": "k1", **unfit})), kid="k1") == no
    many = jwks(*[other] * MAX_KEYS, mine)
    assert told(many, kid="k1") == no
    assert told(b'{"keys": 1}') == "what keys_url tells is no JWKS"
    assert told(b"") != "accepted 0"


def test_a_short_rsa_key_that_is_told_is_none() -> None:
    weak = rsa.generate_private_key(public_exponent=65537, key_size=1024)  # noqa: S505  # the point
    scheme = scheme_of("RS256", keys_url=KEYS_URL)
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = token_of("RS256", weak)
    assert "signature is not" in judge(scheme, f"Bearer {token}", fetched=jwks(("RS256", weak, {})))


def test_made_up_key_ids_ask_for_nothing_more() -> None:
    verifier = verifier_for(scheme_of("ES256", keys_url=KEYS_URL), [])
    needs = [
        verifier.needs(SignedRequest("POST", "/", {"authorization": f"Bearer {token}"}, BODY))
        for token in (token_of("ES256"), token_of("ES256", None, {"kid": "made-up"}))
    ]
    assert needs[0] == needs[1]
    assert needs[0] is not None
    assert (needs[0].url, needs[0].key, needs[0].post) == (KEYS_URL, KEYS_URL, b"")
    with pytest.raises(SignatureRefused):  # nothing is fetched for what is no token of theirs
        verifier.needs(SignedRequest("POST", "/", {"authorization": "Bearer x"}, BODY))


@settings(max_examples=200)
@given(
    st.sampled_from(["kty", "crv", "x", "y", "n", "e", "use", "alg", "kid"]),
    st.none() | st.integers() | st.text(max_size=20) | st.lists(st.integers(), max_size=2),
    st.sampled_from(["RS256", "ES256"]),
)
def test_any_key_that_is_told_raises_nothing_but_a_refusal(
    field: str, value: object, kind: str
) -> None:
    told = jwks((kind, KINDS[kind][1], {field: value}))
    judge(scheme_of(kind, keys_url=KEYS_URL), f"Bearer {TOKENS[kind]}", fetched=told)


# In the file, and on the command line ------------------------------------------------------------


def check(tmp_path: Path, verify: str, secret: str | None = SECRET) -> tuple[Any, list[str]]:
    path = tmp_path / "gateway.toml"
    secrets = 'secrets = ["env:S"]\n' if secret else ""
    path.write_text(f"[vendors.v.webhook]\n{secrets}verify = {verify}\n")
    config, faults, _ = loader.check(path, environ={"S": secret or ""})
    return config, [str(fault) for fault in faults]


@pytest.mark.parametrize(
    ("verify", "words"),
    [
        ('{ preset = "jwt", algorithm = "sha1" }', '"sha1" signs no JWT here'),
        ('{ preset = "jwt", algorithm = "token" }', '"token" signs no JWT here'),
        ('{ preset = "jwt", algorithm = "rsa-sha256" }', "not an RSA public key"),
        (f'{{ preset = "jwt", keys_url = "{KEYS_URL}", audience = "a" }}', "tells public keys"),
        (
            f'{{ preset = "jwt", algorithm = "rsa-sha256", keys_url = "{KEYS_URL}" }}',
            "audience: is missing",
        ),
        *[
            (
                (
                    '{ preset = "jwt", algorithm = "rsa-sha256", audience = "a", '
                    f'keys_url = "{url}" }}'
                ),
                'write "https://host/path"',
            )
            for url in (
                "http://h.example/k",
                "https://u@h.example/k",
                "https://h.example:8443/k",
                "https://h.example/k#x",
                "https://h.example\\\\@evil.example/",
            )
        ],
        ('{ preset = "jwt", signed = "{body}" }', "has no effect: jwt"),
        ('{ preset = "github", issuer = "x" }', "has no effect: only a jwt"),
        ('{ preset = "plaid", audience = "x" }', "has no effect"),
        ('{ header = "X", body_hash = "x" }', "has no effect: only a jwt"),
    ],
)
def test_a_fault_is_told(tmp_path: Path, verify: str, words: str) -> None:
    config, faults = check(tmp_path, verify)
    assert config is None
    assert any(words in fault for fault in faults), faults
    assert SECRET not in str(faults)


def test_a_public_key_is_no_secret(tmp_path: Path) -> None:
    _, faults = check(tmp_path, '"jwt"', pem(RSA))
    assert "which is no secret to HS256" in faults[0]


def test_without_a_secret_nothing_starts(tmp_path: Path) -> None:
    _, faults = check(tmp_path, '"jwt"', None)
    assert "is missing, so nothing could be verified" in faults[0]


def test_with_a_keys_url_no_secret_is_needed_and_it_survives_being_shown(tmp_path: Path) -> None:
    verify = (
        f'{{ preset = "jwt", algorithm = "ecdsa-sha256", keys_url = "{KEYS_URL}", audience = "a", '
        'issuer = "i", body_hash = "h", header = "X-T", prefix = "", tolerance = "10s" }'
    )
    config, faults = check(tmp_path, verify, None)
    assert faults == []
    path = tmp_path / "shown.toml"
    path.write_text(show.render(config))
    shown, again, _ = loader.check(path, environ={})
    assert again == []
    assert shown is not None
    assert shown.vendors == config.vendors


def explain(path: Path, token: str, *more: str) -> tuple[int, str]:
    asked = ["webhooks", "explain", "v", "--config", str(path), "--now", str(NOW), *more]
    ran = CliRunner().invoke(main, [*asked, "--header", f"Authorization: Bearer {token}"])
    return ran.exit_code, ran.output


def explained(tmp_path: Path, verify: str, secret: str, token: str) -> tuple[int, str]:
    key = tmp_path / "key"
    key.write_text(secret)
    key.chmod(0o600)
    path = tmp_path / "gateway.toml"
    path.write_text(f'[vendors.v.webhook]\nverify = {verify}\nsecrets = ["file:{key}"]\n')
    return explain(path, token)


def test_explain_tells_what_is_wrong_and_shows_no_token(tmp_path: Path) -> None:
    named = '{ preset = "jwt", issuer = "shop", audience = "gateway" }'
    token = token_of("HS256")
    status, text = explained(tmp_path, named, SECRET, token)
    assert (status, "accepted" in text) == (0, True)
    assert token.rpartition(".")[2] not in text
    assert SECRET not in text
    for claims, reason in (
        ({"exp": NOW - 90}, "the token expired 90 s ago"),
        ({"aud": "other"}, "aud of the token is not the audience"),
    ):
        status, text = explained(tmp_path, named, SECRET, token_of("HS256", **claims))
        assert (status, reason in text) == (1, True), text
    status, text = explained(tmp_path, named, OTHER, token)
    assert (status, "signature is not any secret's" in text) == (1, True), text


def test_explain_takes_the_keys_of_a_keys_url_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "jwks.json").write_bytes(jwks(("ES256", P256, {"kid": "k"})))
    path = tmp_path / "gateway.toml"
    path.write_text(
        '[vendors.v.webhook]\nverify = { preset = "jwt", algorithm = "ecdsa-sha256", '
        f'keys_url = "{KEYS_URL}", audience = "gateway" }}\n'
    )
    token = token_of("ES256", None, {"kid": "k"})
    status, text = explain(path, token, "--fetched", str(tmp_path / "jwks.json"))
    assert (status, "accepted" in text) == (0, True), text
