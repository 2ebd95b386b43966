"""A signed line is valid once: at its place, in one direction of one connection of one job."""

import hashlib
import hmac

import pytest

from convnext_imagenet.launch.ranks.signed_lines import (
    CALLER,
    LISTENER,
    SignedLines,
    connection_key,
    signed_line,
    text_of,
)

TOKEN, OTHER_TOKEN = b"t" * 32, b"u" * 32


def _ends(caller_token: bytes = TOKEN) -> tuple[SignedLines, SignedLines]:
    """Both ends of a connection after the exchange of their nonces."""
    listener, caller = SignedLines(TOKEN, LISTENER), SignedLines(caller_token, CALLER)
    assert listener.open(caller.first_line().rstrip(b"\n"))
    assert caller.open(listener.first_line().rstrip(b"\n"))
    return listener, caller


def _sent(end: SignedLines, text: str) -> bytes:
    line = end.sign(text)
    assert line.endswith(b"\n")
    return line[:-1]


def test_each_end_reads_what_the_other_has_signed_in_its_order() -> None:
    listener, caller = _ends()
    for text in ("hello 2 1 0", "stop", "stop", ""):
        assert listener.check(_sent(caller, text)) == text
        assert caller.check(_sent(listener, text)) == text


def test_the_signature_is_that_of_the_definition() -> None:
    """Calculated from the words of the module's docstring, with hashlib's block size of 64 bytes (RFC 2104)."""

    def mac(key: bytes, message: bytes) -> bytes:
        padded = key.ljust(64, b"\0")
        inner = hashlib.sha256(bytes(byte ^ 0x36 for byte in padded) + message).digest()
        return hashlib.sha256(bytes(byte ^ 0x5C for byte in padded) + inner).digest()

    key = connection_key(TOKEN, b"a" * 32, b"b" * 32)
    assert key == mac(TOKEN, b"launchers " + b"a" * 32 + b" " + b"b" * 32)
    line = signed_line(key, CALLER, 7, "end 1 0")
    assert line == mac(key, b"caller 7 end 1 0").hex().encode() + b" end 1 0\n"
    assert hmac.compare_digest(line[:64], hmac.new(key, b"caller 7 end 1 0", "sha256").hexdigest().encode())


def test_a_line_is_valid_only_with_its_key_sender_number_and_text() -> None:
    key = connection_key(TOKEN, b"a" * 32, b"b" * 32)
    line = signed_line(key, CALLER, 7, "end 1 0")[:-1]
    assert text_of(key, CALLER, 7, line) == "end 1 0"
    assert text_of(key, LISTENER, 7, line) is None
    assert text_of(key, CALLER, 8, line) is None
    assert text_of(key, CALLER, 7, line.replace(b"end 1", b"end 0")) is None
    for other in (
        connection_key(OTHER_TOKEN, b"a" * 32, b"b" * 32),
        connection_key(TOKEN, b"c" * 32, b"b" * 32),
        connection_key(TOKEN, b"a" * 32, b"c" * 32),
        connection_key(TOKEN, b"b" * 32, b"a" * 32),
    ):
        assert text_of(other, CALLER, 7, line) is None


def test_every_changed_or_missing_byte_of_a_line_is_noticed() -> None:
    key = connection_key(TOKEN, b"a" * 32, b"b" * 32)
    line = signed_line(key, CALLER, 0, "hello 2 1 0")[:-1]
    for place in range(len(line)):
        changed = line[:place] + bytes([line[place] ^ 1]) + line[place + 1 :]
        for wrong in (changed, line[:place], line[:place] + line[place + 1 :]):
            assert text_of(key, CALLER, 0, wrong) is None, wrong


def test_a_line_is_not_valid_twice_and_not_for_its_own_sender() -> None:
    listener, caller = _ends()
    line = _sent(caller, "stop")
    assert caller.check(line) is None, "reflected"
    assert listener.check(line) == "stop"
    assert listener.check(line) is None, "replayed"
    assert listener.check(_sent(caller, "end 0 0")) == "end 0 0"


def test_a_missing_line_is_noticed() -> None:
    listener, caller = _ends()
    _sent(caller, "hello 2 1 0")
    assert listener.check(_sent(caller, "stop")) is None


def test_a_line_of_another_connection_of_the_same_job_is_not_valid() -> None:
    (listener, _), (_, caller) = _ends(), _ends()
    assert listener.check(_sent(caller, "hello 2 1 0")) is None


def test_another_token_gives_other_signatures() -> None:
    listener, caller = _ends(OTHER_TOKEN)
    assert listener.check(_sent(caller, "hello 2 1 0")) is None
    assert caller.check(_sent(listener, "welcome")) is None


@pytest.mark.parametrize(
    "line",
    [b"", b"nonce", b"nonce ", b"nonce " + b"a" * 31, b"nonce " + b"a" * 33, b"nonce " + b"A" * 32, b"a" * 32],
)
def test_only_a_nonce_opens_a_connection(line: bytes) -> None:
    end = SignedLines(TOKEN, LISTENER)
    assert not end.open(line)
    assert not end.is_open
    for act in (lambda: end.sign("stop"), lambda: end.check(b"stop")):
        with pytest.raises(ValueError, match="nonce"):
            act()


def test_every_connection_has_another_nonce() -> None:
    assert len({SignedLines(TOKEN, CALLER).first_line() for _ in range(100)}) == 100
