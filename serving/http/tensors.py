"""Tensors of the Open Inference Protocol: JSON and bytes to arrays, and back.

In JSON a tensor's `data` is flat or nested, row by row. With the binary extension its bytes follow the JSON, little
endian, row by row; of BYTES each element has its length before it, in 4 bytes.
Source: KServe's Open Inference Protocol, and Triton's binary tensor data extension.
"""

import math
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import BaseModel, Field

from serving.http.errors import Refused

TYPES = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32, "UINT64": np.uint64,
    "INT8": np.int8, "INT16": np.int16, "INT32": np.int32, "INT64": np.int64, "FP16": np.float16, "FP32": np.float32,
    "FP64": np.float64,
}  # fmt: skip


class Tensor(BaseModel):
    """An input: its values in `data`, or in `parameters.binary_data_size` bytes after the JSON."""

    name: str
    shape: list[Annotated[int, Field(ge=0, le=2**31)]]
    datatype: Literal["BYTES", *TYPES]
    parameters: dict[str, Any] = {}
    data: list[Any] | None = None


def parse_tensors(tensors: list[Tensor], blob: bytes) -> dict[str, np.ndarray]:
    """The arrays by name; of BYTES those of `str`.

    Raises:
        Refused: values, bytes and shape do not fit together.
    """
    found, at = {}, 0
    for tensor in tensors:
        if tensor.name in found:
            raise Refused(422, f"input {tensor.name!r:.50} comes twice; give it once")
        size = tensor.parameters.get("binary_data_size")
        if size is None:
            values = _from_json(tensor)
        elif not isinstance(size, int) or isinstance(size, bool) or not 0 <= size <= len(blob) - at:
            raise Refused(400, f"input {tensor.name!r:.50}: binary_data_size {size!r:.50} is not what follows the JSON")
        else:
            values, at = _from_bytes(tensor, blob[at : at + size]), at + size
        if values.size != math.prod(tensor.shape):
            raise Refused(422, f"input {tensor.name!r:.50} has {values.size} values, but its shape is {tensor.shape}")
        found[tensor.name] = values.reshape(tensor.shape)
    if at != len(blob):
        raise Refused(400, f"{len(blob) - at} bytes after the JSON belong to no input; set binary_data_size")
    return found


def _from_json(tensor: Tensor) -> np.ndarray:
    if tensor.data is None:
        raise Refused(422, f"input {tensor.name!r:.50} has no data")
    values = list(_flatten(tensor.data))
    numbers = int if tensor.datatype.startswith(("INT", "UINT")) else (int, float)
    wanted = {"BYTES": str, "BOOL": bool}.get(tensor.datatype, numbers)
    for value in values:
        if not isinstance(value, wanted) or isinstance(value, bool) != (wanted is bool):  # a bool is an int in Python
            raise Refused(422, f"input {tensor.name!r:.50} has a value that is no {tensor.datatype}")
    try:
        with np.errstate(over="raise"):
            return np.array(values, dtype=TYPES.get(tensor.datatype, object))
    except (ArithmeticError, ValueError):
        raise Refused(422, f"input {tensor.name!r:.50} has a value that is no {tensor.datatype}") from None


def _flatten(data: list[Any]) -> Iterator[Any]:
    """The values of nested lists, row by row, however deep they are."""
    stack = [iter(data)]
    while stack:
        for value in stack[-1]:
            if isinstance(value, list):
                stack.append(iter(value))
                break
            yield value
        else:
            stack.pop()


def _from_bytes(tensor: Tensor, blob: bytes) -> np.ndarray:
    if tensor.datatype == "BYTES":
        return np.array(list(_parse_bytes(tensor, blob)), dtype=object)
    kind = np.dtype(TYPES[tensor.datatype]).newbyteorder("<")
    if len(blob) % kind.itemsize:
        raise Refused(400, f"input {tensor.name!r:.50}: {len(blob)} bytes are no whole number of {tensor.datatype}")
    return np.frombuffer(blob, kind)


def _parse_bytes(tensor: Tensor, blob: bytes) -> Iterator[str]:
    at = 0
    while at < len(blob):
        end = at + 4 + int.from_bytes(blob[at : at + 4], "little")
        if end > len(blob) or at + 4 > len(blob):
            raise Refused(400, f"input {tensor.name!r:.50}: its last element is cut off")
        try:
            yield blob[at + 4 : end].decode()
        except UnicodeDecodeError:
            raise Refused(422, f"input {tensor.name!r:.50} has an element that is not UTF-8") from None
        at = end


def write_tensor(name: str, values: np.ndarray, binary: bool) -> tuple[dict[str, Any], bytes]:
    """An output's JSON, and its bytes where it is to be binary; values are float32 or `str`."""
    entry = {"name": name, "datatype": "BYTES" if values.dtype == object else "FP32", "shape": list(values.shape)}
    if not binary:
        return entry | {"data": values.ravel().tolist()}, b""
    if values.dtype == object:
        texts = [text.encode() for text in values.ravel()]
        blob = b"".join(len(text).to_bytes(4, "little") + text for text in texts)
    else:
        blob = values.astype("<f4").tobytes()
    return entry | {"parameters": {"binary_data_size": len(blob)}}, blob
