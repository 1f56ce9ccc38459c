"""Who may call: tokens, names of the machine, origins, rates, and what a head says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from tav_sdk.errors import ConfigError
from tav_sdk.server.access import Access, RateLimit, Tokens, check_listening, cors_headers, is_loopback
from tav_sdk.server.headers import idempotency_key, request_id
from tav_sdk.server.problems import ProblemError
from tav_sdk.server.settings import ServerSettings


def sha(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def settings(tmp_path: Path, **more) -> ServerSettings:
    return ServerSettings(bundles=tmp_path, state=tmp_path, **more)


def head(**values: str) -> list[tuple[bytes, bytes]]:
    return [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in values.items()]


@pytest.fixture
def tokens(tmp_path) -> Path:
    path = tmp_path / "tokens.txt"
    path.write_text(f"# people\n\nann:{sha('secret-a')}\nann:{sha('newer-a')}\n  bob : {sha('secret-b').upper()}  \n")
    return path


@pytest.mark.parametrize(
    ("token", "owner"), [("secret-a", "ann"), ("newer-a", "ann"), ("secret-b", "bob")], ids=["ann", "newer", "bob"]
)
def test_a_token_has_an_owner(tokens, tmp_path, token, owner):
    access = Access(settings(tmp_path, tokens=tokens, host="0.0.0.0"))
    assert access.owner(head(authorization=f"Bearer {token}")) == owner
    assert access.owner(head(authorization=f"bearer  {token} ")) == owner


@pytest.mark.parametrize(
    "headers",
    [
        head(),
        head(authorization="secret-a"),
        head(authorization="Basic secret-a"),
        head(authorization="Bearer "),
        head(authorization="Bearer secret-A"),
        head(authorization=f"Bearer {sha('secret-a')}"),
        head(authorization="Bearer \xff"),
        head(authorization="Bearer " + "a" * 5000),
        head(authorization="Bearer secret-a") * 2,
    ],
)
def test_no_other_token_is_taken(tokens, headers):
    with pytest.raises(ProblemError) as caught:
        Tokens.read(tokens).owner(headers)
    problem = caught.value
    assert problem.status == 401
    assert problem.headers == {"WWW-Authenticate": "Bearer"}
    error = problem.body["error"]
    assert (error["code"], error["type"], error["param"]) == ("invalid_token", "authentication_error", None)
    assert "token" in error["message"]
    assert "secret" not in error["message"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no token"),
        ("# only this\n", "has no token"),
        (f"\nann {sha('a')}", "line 2: expected NAME:SHA256"),
        (f"a b:{sha('a')}", "line 1: expected NAME:SHA256"),
        ("#\n#\nann:my-plain-token", "line 3: expected 64 hexadecimal digits after the name ann, got 14 characters"),
        (f"ann:{sha('a')}\nbob:{sha('a').upper()}", "line 2: this token is there already"),
    ],
)
def test_a_damaged_file_of_tokens_is_named_by_its_line(tmp_path, text, said):
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(ConfigError, match=said) as caught:
        Tokens.read(path)
    assert "my-plain-token" not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        Tokens.read(tmp_path / "none")


def test_without_tokens_everything_is_one_owners(tmp_path):
    assert Access(settings(tmp_path)).owner(head(authorization="Bearer anything")) == ""


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org", ""])
def test_other_machines_need_tokens(tmp_path, tokens, host):
    with pytest.raises(ConfigError, match="without tokens the server listens on this machine alone"):
        check_listening(settings(tmp_path, host=host))
    check_listening(settings(tmp_path, host=host, tokens=tokens))
    check_listening(settings(tmp_path, host=host, insecure=True))


def test_names_of_loopback():
    assert all(
        map(is_loopback, ["localhost", "LOCALHOST", "127.0.0.1", "127.1.2.3", "::1", "[::1]", "::ffff:127.0.0.1"])
    )
    assert not any(map(is_loopback, ["localhost.evil.org", "127.0.0.1.nip.io", "0.0.0.0", "", "2130706433", "[::2]"]))


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:9", "[::1]:8000", "LocalHost:8000"])
def test_own_names_are_taken(tmp_path, host):
    Access(settings(tmp_path)).check_host(head(host=host))


@pytest.mark.parametrize(
    "headers",
    [
        head(),
        head(host="evil.org"),
        head(host="evil.org:8000"),
        head(host="localhost:x"),
        head(host="localhost@evil.org"),
        head(host="\xfflocalhost"),
        head(host="localhost") + head(host="evil.org"),
    ],
)
def test_a_name_that_only_leads_here_is_refused(tmp_path, tokens, headers):
    with pytest.raises(ProblemError) as caught:
        Access(settings(tmp_path)).check_host(headers)
    error = caught.value.body["error"]
    assert caught.value.status == 403
    assert (error["code"], error["type"], error["param"]) == ("host_not_allowed", "permission_error", None)
    assert "localhost, 127.0.0.1 or [::1]" in error["message"]
    Access(settings(tmp_path, tokens=tokens)).check_host(headers)
    Access(settings(tmp_path, host="0.0.0.0", insecure=True)).check_host(headers)


def test_the_own_page_may_call(tmp_path):
    access = Access(settings(tmp_path))
    assert access.check_origin(head(host="localhost:8000")) is None
    assert access.check_origin(head(host="localhost:8000", origin="http://localhost:8000")) is None
    assert access.check_origin(head(host="tav.example.org", origin="https://tav.example.org")) is None
    assert access.check_origin(head(host="tav.example.org:443", origin="https://TAV.example.org")) is None


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "http://evil.org",
        "http://localhost:8001",
        "http://localhost",
        "https://localhost:8000.evil.org",
        "file://localhost:8000",
        "localhost:8000",
        "",
    ],
)
def test_other_pages_may_not(tmp_path, origin):
    access = Access(settings(tmp_path, allow_origins=("https://app.example.org/", "http://other:81")))
    for headers in (
        head(host="localhost:8000", origin=origin),
        head(host="localhost:8000", origin="http://localhost:8000") + head(origin=origin),
    ):
        with pytest.raises(ProblemError) as caught:
            access.check_origin(headers)
        error = caught.value.body["error"]
        assert caught.value.status == 403
        assert (error["code"], error["type"], error["param"]) == ("origin_not_allowed", "permission_error", None)
        assert "may not call this server" in error["message"]


def test_allowed_origins_are_told_so(tmp_path):
    access = Access(settings(tmp_path, allow_origins=("https://app.example.org/", "http://other:81")))
    origin = access.check_origin(head(host="localhost:8000", origin="https://app.example.org"))
    assert origin == "https://app.example.org"
    assert cors_headers(origin)["Access-Control-Allow-Origin"] == origin
    assert "Access-Control-Allow-Methods" not in cors_headers(origin)
    assert "Authorization" in cors_headers(origin, preflight=True)["Access-Control-Allow-Headers"]
    for wrong in ("*", "app.example.org", "https://app.example.org/page"):
        with pytest.raises(ConfigError, match="must be like https://example"):
            Access(settings(tmp_path, allow_origins=(wrong,)))


def test_the_rate_is_counted_for_each_owner_over_any_minute():
    now = [0.0]
    limit = RateLimit(2, clock=lambda: now[0])
    limit.count("ann")
    now[0] = 45.5
    limit.count("ann")
    with pytest.raises(ProblemError) as caught:
        limit.count("ann")
    error = caught.value.body["error"]
    assert caught.value.status == 429
    assert caught.value.headers == {"Retry-After": "15"}
    assert (error["code"], error["type"], error["param"]) == ("rate_limited", "rate_limit_error", None)
    assert "at most 2 requests in 60 s" in error["message"]
    limit.count("bob")
    now[0] = 60.0
    limit.count("ann")
    with pytest.raises(ProblemError):
        limit.count("ann")


def test_a_rate_below_one_stretches_the_minute_and_none_limits_nothing():
    now = [0.0]
    slow = RateLimit(0.5, clock=lambda: now[0])
    slow.count("")
    now[0] = 30.0
    with pytest.raises(ProblemError) as caught:
        slow.count("")
    assert caught.value.headers["Retry-After"] == "60"
    now[0] = 120.0
    slow.count("")
    for _ in range(1000):
        RateLimit(None).count("")
    with pytest.raises(ConfigError, match="above 0"):
        RateLimit(0)


def test_request_ids():
    assert request_id(head(x_request_id="a.B-9_")) == "a.B-9_"
    for wrong in ("", "a b", "a" * 65, "a\nb", "\xe9", "{}"):
        made = request_id(head(x_request_id=wrong))
        assert made != wrong
        assert len(made) == 32
    assert request_id(head()) != request_id(head())


def test_idempotency_keys():
    assert idempotency_key(head()) is None
    assert idempotency_key(head(idempotency_key="a" * 128)) == "a" * 128
    for wrong in (head(idempotency_key=""), head(idempotency_key="a b"), head(idempotency_key="a" * 129)):
        with pytest.raises(ProblemError) as caught:
            idempotency_key(wrong)
        error = caught.value.body["error"]
        assert (caught.value.status, error["code"], error["param"]) == (400, "invalid_value", "Idempotency-Key")
        assert "1 to 128 visible ASCII characters" in error["message"]
    with pytest.raises(ProblemError, match="came twice"):
        idempotency_key(head(idempotency_key="a") * 2)
