"""What an ONNX file says, as far as it has to be known before a library opens it: read without one.

Field numbers are those of ``onnx.proto``, which never change. What is refused here are kinds of content that no export
writes and that can hide or repeat other content: graphs inside operators, functions, training graphs, sparse tensors.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from tav_sdk.bundle.wire import BYTES, FIXED32, FIXED64, VARINT, WireError, fields, integers, text

MAX_NODES, MAX_TENSORS, MAX_RANK = 200_000, 200_000, 32
_ITEM_BITS = {
    1: 32, 2: 8, 3: 8, 4: 16, 5: 16, 6: 32, 7: 64, 9: 8, 10: 16, 11: 64, 12: 32, 13: 64, 14: 64, 15: 128, 16: 16,
    17: 8, 18: 8, 19: 8, 20: 8, 21: 4, 22: 4, 23: 4,
}  # fmt: skip
"""Bits of an element, by ``TensorProto.DataType``; strings (8) are refused."""
DTYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 9: "bool", 10: "float16",
    11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16",
}  # fmt: skip
"""numpy's names of the types that a graph's inputs and outputs may have."""
FLOAT, INT64 = 1, 7


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A constant of a graph.

    Attributes:
        name: in the graph.
        dtype: a number of ``TensorProto.DataType``.
        shape: of at most :data:`MAX_RANK` axes.
        location: the file that holds it, as the graph names it; ``None``: it is in the graph's own file.
        offset: its first byte in that file.
        length: its bytes, whatever the graph says of them.
        raw: its bytes, if they are in the graph's file as one piece.
        integers: its values, if they are in the graph's file one by one as integers.
    """

    name: str
    dtype: int
    shape: tuple[int, ...]
    location: str | None
    offset: int
    length: int
    raw: memoryview
    integers: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Node:
    """An operator.

    Attributes:
        operator: its type.
        inputs: names of what goes in; empty where an optional input is left out.
        outputs: names of what comes out.
        integers: the values of its attributes that are integers, by the attribute's name.
    """

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    integers: dict[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Value:
    """An input or output of the graph; ``shape`` is ``None`` where the graph does not say it, an axis likewise."""

    name: str
    dtype: str
    shape: tuple[int | None, ...] | None


@dataclass(frozen=True, kw_only=True)
class OnnxModel:
    """A graph without control flow.

    Attributes:
        nodes: in the order in which they run.
        tensors: initialisers, and tensors in operators; those of a ``Constant`` have the name of its output.
        inputs: initialisers that are inputs as well included.
        outputs: in their order.
        opset: version of ONNX's own operator set; 0 if the file does not say it.
    """

    nodes: tuple[Node, ...]
    tensors: tuple[Tensor, ...]
    inputs: tuple[Value, ...]
    outputs: tuple[Value, ...]
    opset: int


def read_model(content: bytes) -> OnnxModel:
    """Read the bytes of an ONNX file; its external files are not looked at.

    Raises:
        WireError: it is no model, or has content of a kind that no export writes.
    """
    graph: memoryview | None = None
    opset = 0
    for number, wire, _, part in fields(memoryview(content)):
        if number == 7:
            if graph is not None or wire != BYTES:
                raise WireError("it has two graphs")  # a library would read them as one
            graph = part
        elif number == 8:
            opset = max(opset, _opset(part))
        elif number in (20, 25):
            raise WireError(f"it has {'training graphs' if number == 20 else 'functions of its own'}")
    return _graph(memoryview(b"") if graph is None else graph, opset)


def _opset(message: memoryview) -> int:
    """The version of an entry that names an operator set; 0 if the set is not ONNX's own."""
    domain, version = "", 0
    for number, wire, value, part in fields(message):
        if number == 1:
            domain = text(wire, part)
        elif number == 2:
            version = value
    return version if domain in ("", "ai.onnx") else 0


def _graph(message: memoryview, opset: int) -> OnnxModel:
    nodes: list[Node] = []
    tensors: list[Tensor] = []
    inputs: list[Value] = []
    outputs: list[Value] = []
    for number, _, _, part in fields(message):
        if number == 1:
            nodes.append(_node(part, tensors))
        elif number == 5:
            tensors.append(_tensor(part))
        elif number == 11:
            inputs.append(_value(part))
        elif number == 12:
            outputs.append(_value(part))
        elif number == 15:
            raise WireError("it has sparse tensors")
        if len(nodes) > MAX_NODES or len(tensors) > MAX_TENSORS:
            raise WireError(f"it has more than {MAX_NODES} operators or {MAX_TENSORS} tensors")
    return OnnxModel(
        nodes=tuple(nodes), tensors=tuple(tensors), inputs=tuple(inputs), outputs=tuple(outputs), opset=opset
    )


def _node(message: memoryview, tensors: list[Tensor]) -> Node:
    """An operator; what its attributes hold is added to ``tensors``."""
    inputs: list[str] = []
    outputs: list[str] = []
    attributes: list[memoryview] = []
    operator = ""
    for number, wire, _, part in fields(message):
        if number == 1:
            inputs.append(text(wire, part))
        elif number == 2:
            outputs.append(text(wire, part))
        elif number == 4:
            operator = text(wire, part)
        elif number == 5:
            attributes.append(part)
        elif number in (7, 8) and (name := text(wire, part)) not in ("", "ai.onnx"):
            raise WireError(
                f"an operator is {'of the set' if number == 7 else 'the overload'} {name!r}, not ONNX's own"
            )
    name = outputs[0] if operator == "Constant" and len(outputs) == 1 else ""
    values = dict(_attribute(attribute, operator, name, tensors) for attribute in attributes)
    return Node(operator=operator, inputs=tuple(inputs), outputs=tuple(outputs), integers=values)


def _attribute(message: memoryview, operator: str, name: str, tensors: list[Tensor]) -> tuple[str, tuple[int, ...]]:
    """The name of an attribute, and its integers; a tensor that it holds is added to ``tensors``."""
    title = ""
    values: list[int] = []
    floats = b""
    count = 0
    for number, wire, value, part in fields(message):
        if number == 1:
            title = text(wire, part)
        elif number == 5:
            count += 1
            tensors.append(_tensor(part, name))
        elif number in (2, 7):
            floats += bytes(part)
        elif number in (3, 8):
            values += integers(wire, value, part)
        elif number in (6, 11):
            raise WireError(f"its operator {operator} has a graph inside")
        elif number in (10, 14, 15, 22, 23):
            raise WireError(f"its operator {operator} has a list of tensors, a type or a sparse tensor inside")
    if count > 1:
        raise WireError(f"its operator {operator} has an attribute with two tensors")
    if name and title in ("value_int", "value_ints"):
        packed = struct.pack(f"<{len(values)}q", *values)
        tensors.append(_constant(name, INT64, len(values), packed, scalar=title == "value_int"))
    elif name and title in ("value_float", "value_floats"):
        if len(floats) % 4:
            raise WireError(f"its operator {operator} has floats of {len(floats)} bytes")
        tensors.append(_constant(name, FLOAT, len(floats) // 4, floats, scalar=title == "value_float"))
    return title, tuple(values)


def _constant(name: str, dtype: int, count: int, raw: bytes, *, scalar: bool) -> Tensor:
    return Tensor(
        name=name,
        dtype=dtype,
        shape=() if scalar else (count,),
        location=None,
        offset=0,
        length=len(raw),
        raw=memoryview(raw),
        integers=(),
    )


def _tensor(message: memoryview, name: str = "") -> Tensor:
    dtype, external = 0, False
    own = name
    shape: list[int] = []
    said: dict[str, str] = {}
    values: list[int] = []
    raw: memoryview | None = None
    listed = 0
    for number, wire, value, part in fields(message):
        if number == 1:
            shape += integers(wire, value, part)
        elif number == 2:
            dtype = value
        elif number in (3, 6):
            raise WireError("it has a tensor in segments or of strings")
        elif number == 7:
            values += integers(wire, value, part)
        elif number in (4, 5, 10, 11):
            listed += _count(number, wire, part)
        elif number == 8:
            own = name or text(wire, part)
        elif number == 9:
            if raw is not None or wire != BYTES:
                raise WireError("it has a tensor with two contents")
            raw = part
        elif number == 13:
            _entry(part, said)
        elif number == 14:
            external = external or value != 0
    elements = _elements(own, shape)
    if dtype not in _ITEM_BITS:
        raise WireError(f"its tensor {own!r} has the type {dtype}, which no export writes")
    length = -(-elements * _ITEM_BITS[dtype] // 8)
    location, offset = None, 0
    if external or said:
        location, offset = _place(own, said, length)
        if raw is not None or values or listed:
            raise WireError(f"its tensor {own!r} is in the file and in another one")
    elif raw is not None:
        if len(raw) != length:
            raise WireError(f"its tensor {own!r} has {len(raw)} bytes, its shape takes {length}")
    elif elements > 2 * (len(values) + listed):  # two of 4 bits in one number, of complex ones one in two
        raise WireError(f"its tensor {own!r} has {len(values) + listed} values, its shape takes {elements}")
    return Tensor(
        name=own,
        dtype=dtype,
        shape=tuple(shape),
        location=location,
        offset=offset,
        length=length,
        raw=raw if raw is not None else memoryview(b""),
        integers=tuple(values),
    )


def _count(number: int, wire: int, part: memoryview) -> int:
    """How many values a field of floats (4), integers (5, 11) or doubles (10) has."""
    if wire in (VARINT, FIXED32, FIXED64):
        return 1
    if number in (4, 10):
        return len(part) // (4 if number == 4 else 8)
    return sum(byte < 0x80 for byte in part)


def _elements(name: str, shape: list[int]) -> int:
    if len(shape) > MAX_RANK or any(axis < 0 for axis in shape):
        raise WireError(f"its tensor {name!r} has a shape that is none: {shape[:MAX_RANK]}")
    elements = 1
    for axis in shape:
        elements *= axis
    return elements


def _entry(message: memoryview, said: dict[str, str]) -> None:
    """One thing that is said of external data."""
    pair: dict[int, str] = {}
    for number, wire, _, part in fields(message):
        if number in (1, 2):
            pair[number] = text(wire, part)
    key = pair.get(1, "")
    if key not in ("location", "offset", "length", "checksum") or key in said:
        raise WireError(f"it says {key!r} of a tensor in another file, which no export writes")
    said[key] = pair.get(2, "")


def _place(name: str, said: dict[str, str], length: int) -> tuple[str, int]:
    numbers = {key: said.get(key, "0" if key == "offset" else str(length)) for key in ("offset", "length")}
    if not said.get("location") or not all(text.isascii() and text.isdigit() for text in numbers.values()):
        raise WireError(f"its tensor {name!r} is in another file, but not said where")
    if max(map(len, numbers.values())) > 19 or int(numbers["length"]) != length:
        raise WireError(f"its tensor {name!r} has {numbers['length'][:20]} bytes, its shape takes {length}")
    return said["location"], int(numbers["offset"])


def _value(message: memoryview) -> Value:
    name, dtype = "", 0
    shape: tuple[int | None, ...] | None = None
    tensors: list[memoryview] = []
    for number, wire, _, part in fields(message):
        if number == 1:
            name = text(wire, part)
        elif number == 2:
            for kind, _, _, inside in fields(part):
                if kind == 1:
                    tensors.append(inside)
                elif kind != 6:
                    raise WireError(f"its {name!r} is no tensor")
    for tensor in tensors:
        for number, _, value, part in fields(tensor):
            if number == 1:
                dtype = value
            elif number == 2:
                shape = tuple(_axis(axis) for kind, _, _, axis in fields(part) if kind == 1)
    if len(tensors) != 1 or dtype not in DTYPES:
        raise WireError(f"its {name!r} is no tensor of a type that an export writes")
    return Value(name=name, dtype=DTYPES[dtype], shape=shape)


def _axis(message: memoryview) -> int | None:
    """A fixed length; ``None`` for a name, or for nothing said."""
    length = None
    for number, wire, value, _ in fields(message):
        if number == 1 and wire == VARINT:
            length = value
        elif number == 2:
            length = None
    return length
