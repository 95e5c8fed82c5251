"""The gateway agrees with the senders' packages on npm, without Node.js.

What those said of requests that the gateway had signed, and of altered ones, stands in
tests/oracles/verdicts.json; ``make oracles`` asks them again.
"""

import json
from typing import Any

import pytest
from oracles.ask import HERE, VERDICTS
from oracles.cases import BODY, HANDSHAKE_TOKEN, ORACLES, handshake_cases, signed_cases

from gateway.errors import SignatureRefused
from gateway.webhooks.compile import verifier_for
from gateway.webhooks.handshakes import Handshakes
from gateway.webhooks.presets import PRESETS
from gateway.webhooks.signed import SignedRequest

TOLD = json.loads(VERDICTS.read_text())
SAID: list[dict[str, Any]] = TOLD["verdicts"]


def accepted(case: dict[str, Any]) -> bool:
    verifier = verifier_for(PRESETS[case["preset"]], [case["secret"]])
    request = SignedRequest("POST", "/", case["headers"], case["body"].encode())
    try:
        verifier.verify(request, case["now"], case.get("fetched", "").encode())
    except SignatureRefused:
        return False
    return True


@pytest.mark.parametrize("preset", ORACLES)
def test_we_accept_and_refuse_what_the_package_does(preset: str) -> None:
    ours = [(one["what"], accepted(one)) for one in SAID if one["preset"] == preset]
    theirs = [(one["what"], one["accepted"]) for one in SAID if one["preset"] == preset]
    assert ours == theirs
    assert ("genuine", True) in theirs
    assert [verdict for _, verdict in theirs].count(False) >= 3


def test_the_package_was_asked_about_what_we_sign_today() -> None:
    """So that nothing else than what it accepted is what ``gateway send`` sends."""
    bodies = {one["what"]: one["body"] for one in SAID if one["body"] != BODY}
    today = list(signed_cases(bodies))
    asked = [{name: one[name] for name in today[0]} for one in SAID if one["preset"] != "aws-sns"]
    assert asked == today, "make oracles"
    assert [{name: one[name] for name in case} for case, one in _handshakes()] == handshake_cases()


def test_what_the_packages_sign_is_what_we_sign() -> None:
    signed = [one for one in SAID if one["signed"] and one["what"] != "another body"]
    assert {one["preset"] for one in signed} == {"github", "intercom", "jira", "notion"}
    for one in signed:
        agrees = one["signed"] in one["headers"].values()
        assert agrees == one["accepted"], (one["preset"], one["what"])


def test_handshakes_are_answered_as_the_packages_answer_them() -> None:
    for case, told in _handshakes():
        scheme = PRESETS[case["preset"]]
        handshakes = Handshakes(scheme.handshakes, scheme=scheme, secrets=[told["secret"]])
        if case["preset"] == "x":
            query = f"crc_token={HANDSHAKE_TOKEN}"
            answer = handshakes.unsigned_answer(SignedRequest("GET", "/", {}, b"", query))
        else:
            request = SignedRequest("POST", "/", case["headers"], case["body"].encode())
            verifier_for(scheme, [told["secret"]]).verify(request, case["now"])
            answer = handshakes.signed_answer(request, 0)
        assert answer is not None
        assert json.loads(answer.body) == json.loads(told["answer"])


def test_the_versions_are_those_that_were_asked() -> None:
    wanted = json.loads((HERE / "package.json").read_text())
    assert TOLD["versions"] == wanted["dependencies"] | wanted["unpacked"]
    assert {one["by"] for one in SAID} == set(ORACLES.values()) <= set(TOLD["versions"])


def _handshakes() -> list[tuple[dict[str, Any], dict[str, Any]]]:
    return list(zip(handshake_cases(), TOLD["handshakes"], strict=True))
