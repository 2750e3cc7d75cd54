"""What a worker and a sandboxed child say to each other: msgpack frames with a length before each."""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Any

import msgspec

from flowmason.errors import Failure

MOST_FRAME = 256 * 1024 * 1024
_HEAD = struct.Struct(">I")


class Call(msgspec.Struct, frozen=True, tag="call"):
    """To the child: run a component once."""

    call: int
    inputs: Any
    context: dict[str, Any]
    """Plain data that the component may read: ids, attempt, variables, upstream, environment."""
    secrets: dict[str, str] = {}
    """Those that the component declared, and no others."""


class Cancel(msgspec.Struct, frozen=True, tag="cancel"):
    """To the child: nobody waits for this call any more."""

    call: int


class Answer(msgspec.Struct, frozen=True, tag="answer"):
    """To the child: what an `Ask` came to."""

    ask: int
    value: Any = None
    failure: Failure | None = None


class Piece(msgspec.Struct, frozen=True, tag="piece"):
    """To the child: text that a model has streamed so far, for an `Ask` under way."""

    ask: int
    text: str


class Done(msgspec.Struct, frozen=True, tag="done"):
    """From the child: a call ended."""

    call: int
    output: Any = None
    failure: Failure | None = None
    cancelled: bool = False


class Ask(msgspec.Struct, frozen=True, tag="ask"):
    """From the child: a component wants something that only the worker has."""

    ask: int
    call: int
    what: str
    arguments: dict[str, Any] = {}


class Note(msgspec.Struct, frozen=True, tag="note"):
    """From the child: a log line or progress. Nobody answers."""

    call: int
    what: str
    arguments: dict[str, Any] = {}


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """From the child: the component is loaded, or why it is not."""

    failure: Failure | None = None


ToChild = Call | Cancel | Answer | Piece
FromChild = Done | Ask | Note | Ready

_encode = msgspec.msgpack.Encoder(enc_hook=str).encode
decode_to_child = msgspec.msgpack.Decoder(ToChild).decode
decode_from_child = msgspec.msgpack.Decoder(FromChild).decode


def frame(message: ToChild | FromChild) -> bytes:
    """A message as it travels."""
    data = _encode(message)
    return _HEAD.pack(len(data)) + data


async def read_frame(stream: asyncio.StreamReader) -> bytes | None:
    """The next message's bytes; None at the end. Raises `ValueError` for one that is too long."""
    try:
        (length,) = _HEAD.unpack(await stream.readexactly(_HEAD.size))
        if length > MOST_FRAME:
            raise ValueError(f"a message of {length} bytes is more than {MOST_FRAME}")
        return await stream.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


def receive(connection: socket.socket) -> bytes:
    """The next message's bytes, waited for. Raises `ConnectionError` at the end."""

    def exactly(count: int) -> bytes:
        data = connection.recv(count, socket.MSG_WAITALL)
        if len(data) != count:
            raise ConnectionError("the worker hung up")
        return data

    (length,) = _HEAD.unpack(exactly(_HEAD.size))
    if length > MOST_FRAME:
        raise ValueError(f"a message of {length} bytes is more than {MOST_FRAME}")
    return exactly(length)
