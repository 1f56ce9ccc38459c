"""Protobuf's wire format: the fields of one message, without any schema and without copying.

A reader of a stranger's file has to read it as the libraries do that run it. So what they might read in another way is
refused: groups, numbers that run over 64 bits, and lengths that leave the message.
"""

from __future__ import annotations

from collections.abc import Iterator

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Wire types."""


class WireError(ValueError):
    """The bytes are no protobuf message."""


def fields(message: memoryview) -> Iterator[tuple[int, int, int, memoryview]]:
    """The fields of a message in their order.

    Args:
        message: its bytes.

    Yields:
        The field's number and wire type; its value as an unsigned integer, 0 where it is not a varint; its bytes, which
        are empty for a varint.

    Raises:
        WireError: the bytes are no message.
    """
    place, end = 0, len(message)
    nothing = message[:0]
    while place < end:
        tag, place = _varint(message, place, end)
        number, wire = tag >> 3, tag & 7
        if not 1 <= number < 1 << 29:
            raise WireError(f"a field has the number {number}")
        if wire == VARINT:
            value, place = _varint(message, place, end)
            yield number, wire, value, nothing
            continue
        if wire == BYTES:
            length, place = _varint(message, place, end)
        elif wire in (FIXED64, FIXED32):
            length = 8 if wire == FIXED64 else 4
        else:
            raise WireError(f"field {number} has the wire type {wire}")
        stop = place + length
        if stop > end:
            raise WireError(f"field {number} ends behind its message")
        yield number, wire, 0, message[place:stop]
        place = stop


def integers(wire: int, value: int, content: memoryview) -> list[int]:
    """The signed integers of one field of repeated ``int64``, which may be packed.

    Raises:
        WireError: the field is no varint and no packed ones.
    """
    if wire == VARINT:
        return [_signed(value)]
    if wire != BYTES:
        raise WireError(f"integers have the wire type {wire}")
    values, place, end = [], 0, len(content)
    while place < end:
        value, place = _varint(content, place, end)
        values.append(_signed(value))
    return values


def text(wire: int, content: memoryview) -> str:
    """The text of a field.

    Raises:
        WireError: it is no UTF-8.
    """
    if wire != BYTES:
        raise WireError(f"a text has the wire type {wire}")
    try:
        return bytes(content).decode()
    except UnicodeDecodeError as error:
        raise WireError("a text is not UTF-8") from error


def _varint(message: memoryview, place: int, end: int) -> tuple[int, int]:
    """An unsigned integer, and the place behind it."""
    if place < end and (byte := message[place]) < 0x80:
        return byte, place + 1
    value = 0
    for count in range(10):
        if place >= end:
            raise WireError("a number ends behind its message")
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << (7 * count)
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, place
    raise WireError("a number has more than 64 bits")


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
