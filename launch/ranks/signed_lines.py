"""Signs the lines that launchers send each other, so that only a launcher of the same job can write one.

Each end of a connection first sends a nonce, a random text for this connection only. Both nonces and the job's token
give the key of the connection. Every later line begins with its MAC: HMAC-SHA256 (RFC 2104) under that key over the
sender, the number of the line from that sender, and the text. So a line is valid once, at its place, in one direction
of one connection. Lines are not encrypted. This module knows no sockets and no files.
"""

import hashlib
import hmac
import re
import secrets

LISTENER, CALLER = "listener", "caller"
_NONCE_LINE = re.compile(rb"nonce ([0-9a-f]{32})")


class SignedLines:
    """One end of a connection; `role` is LISTENER or CALLER. It counts the lines of each direction."""

    def __init__(self, token: bytes, role: str) -> None:
        self._token, self._role = token, role
        self._nonce = secrets.token_hex(16).encode()
        self._key: bytes | None = None
        self._sent = self._received = 0

    @property
    def is_open(self) -> bool:
        """Whether the nonce of the other end has come, so that lines can be signed and checked."""
        return self._key is not None

    def first_line(self) -> bytes:
        """Return the line with this end's nonce, which must be sent before any other."""
        return b"nonce " + self._nonce + b"\n"

    def open(self, line: bytes) -> bool:
        """Take the first line of the other end, without its newline; return False if it holds no nonce."""
        found = _NONCE_LINE.fullmatch(line)
        if found is None:
            return False
        nonces = (self._nonce, found[1]) if self._role == LISTENER else (found[1], self._nonce)
        self._key = connection_key(self._token, *nonces)
        return True

    def sign(self, text: str) -> bytes:
        """Return the next line to send. Raises ValueError before the nonce of the other end has come."""
        line = signed_line(self._open_key(), self._role, self._sent, text)
        self._sent += 1
        return line

    def check(self, line: bytes) -> str | None:
        """Return the text of the next line of the other end, or None if that end did not sign it as its next line.

        `line` has no newline. Raises ValueError before the nonce of the other end has come.
        """
        sender = CALLER if self._role == LISTENER else LISTENER
        text = text_of(self._open_key(), sender, self._received, line)
        self._received += text is not None
        return text

    def _open_key(self) -> bytes:
        if self._key is None:
            raise ValueError("the other end has not sent its nonce")
        return self._key


def connection_key(token: bytes, listener_nonce: bytes, caller_nonce: bytes) -> bytes:
    """Return the key of a connection, 32 bytes."""
    return hmac.digest(token, b"launchers " + listener_nonce + b" " + caller_nonce, hashlib.sha256)


def signed_line(key: bytes, sender: str, number: int, text: str) -> bytes:
    """Return line `number` (from 0) of a sender: MAC in hexadecimal, text, newline."""
    return _mac(key, sender, number, text.encode()) + b" " + text.encode() + b"\n"


def text_of(key: bytes, sender: str, number: int, line: bytes) -> str | None:
    """Return the text of a line without its newline, or None if it is not line `number` of that sender."""
    mac, _, text = line.partition(b" ")
    is_signed = hmac.compare_digest(mac, _mac(key, sender, number, text))
    return text.decode() if is_signed else None


def _mac(key: bytes, sender: str, number: int, text: bytes) -> bytes:
    return hmac.digest(key, f"{sender} {number} ".encode() + text, hashlib.sha256).hex().encode()
