"""Frames between the parent, the zygote and the sessions: a length (4 bytes, big-endian) and a JSON object.

What a session sends is written by code that nobody trusts: it is length-limited JSON, never pickle, and decides
nothing but the text of an observation.
"""

import asyncio
import json
import socket
from typing import Any

_HEADER_BYTES = 4


class WireError(Exception):
    """A frame that is too long, is no JSON object, or has the wrong fields."""


def encode_frame(message: dict[str, Any]) -> bytes:
    """One frame; characters outside ASCII are escaped, so that any text travels."""
    body = json.dumps(message).encode("ascii")
    return len(body).to_bytes(_HEADER_BYTES, "big") + body


def decode_body(body: bytes) -> dict[str, Any]:
    """The object of a frame's body.

    Raises: WireError when it is not a JSON object.
    """
    try:
        message = json.loads(body)
    except (ValueError, RecursionError):
        raise WireError("a frame is not JSON") from None
    if not isinstance(message, dict):
        raise WireError("a frame is not a JSON object")
    return message


async def read_frame(reader: asyncio.StreamReader, limit_bytes: int) -> dict[str, Any]:
    """The next frame of a peer that is not trusted.

    Raises: WireError when it is longer than the limit or malformed; asyncio.IncompleteReadError or ConnectionError
        at the end of the stream.
    """
    length = int.from_bytes(await reader.readexactly(_HEADER_BYTES), "big")
    if length > limit_bytes:
        raise WireError(f"a frame of {length} bytes is over the limit of {limit_bytes}")
    return decode_body(await reader.readexactly(length))


def _receive_exactly(peer: socket.socket, size: int) -> bytes:
    parts = []
    while size:
        part = peer.recv(min(size, 1 << 20))
        if not part:
            raise EOFError
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def receive_frame(peer: socket.socket) -> dict[str, Any]:
    """The next frame of the parent, blocking.

    Raises: EOFError at the end of the stream.
    """
    length = int.from_bytes(_receive_exactly(peer, _HEADER_BYTES), "big")
    return decode_body(_receive_exactly(peer, length))
