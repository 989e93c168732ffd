"""Redis behind TLS, with a certificate as Memorystore has it."""

import ssl
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from devstack.stack import Stack
from shared.errors import Unavailable
from shared.redis_store import RedisStore
from shared.settings import RedisTarget
from tests.support.tls import TlsFront, make_bare_certificate


@pytest.fixture
def strict(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be as strict as Python has been since 3.13 ("ssl.create_default_context", What's New In Python 3.13)."""
    make: Callable[..., ssl.SSLContext] = ssl.create_default_context

    def make_strict(*arguments: object, **named: object) -> ssl.SSLContext:
        context = make(*arguments, **named)
        context.verify_flags |= ssl.VerifyFlags.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", make_strict)


@pytest.fixture
def behind_tls(stack: Stack, tmp_path: Path) -> Iterator[tuple[TlsFront, str, str]]:
    """The Redis server behind TLS, its address there, and its authority's certificate."""
    server = urlsplit(stack.redis_url)
    certificate, key, authority = make_bare_certificate(tmp_path, "127.0.0.1")
    front = TlsFront((server.hostname or "", server.port or 0), certificate, key, asked=False)
    yield front, f"rediss://:{server.password or ''}@127.0.0.1:{front.port}/0", authority
    front.close()


@pytest.mark.usefixtures("strict")
def test_a_certificate_of_the_instances_own_authority_is_believed(behind_tls: tuple[TlsFront, str, str]) -> None:
    front, url, authority = behind_tls
    with closing(RedisStore(RedisTarget(url, authority))) as store:
        store.ping()
    assert front.encrypted == 1


def test_a_certificate_of_another_authority_is_not(behind_tls: tuple[TlsFront, str, str], tmp_path: Path) -> None:
    front, url, _ = behind_tls
    other = tmp_path / "other"
    other.mkdir()
    _, _, stranger = make_bare_certificate(other, "127.0.0.1")
    for authority in (stranger, None):
        with pytest.raises(Unavailable), closing(RedisStore(RedisTarget(url, authority))) as store:
            store.ping()
    assert front.encrypted == 0
