"""Measured objects as JSON and back, exactly: tables, arrays, and this package's records of them; never code."""

import base64
import importlib
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np
import pandas as pd

from tuningvec.errors import TuningVecError
from tuningvec.store import Told

PACKAGE = __name__.partition(".")[0]
OF_A_RUN = ("measured", "machine", "device", "versions")


def encoded(value: Any) -> Any:
    """What `json.dumps` writes and `decoded` turns back.

    Of a table's runs those fields are kept that pages show. Raises TuningVecError for an object that is no table, no
    array, no record of this package, and no container of such.
    """
    if isinstance(value, pd.DataFrame):
        columns = [_column(value.iloc[:, i]) for i in range(value.shape[1])]
        told = {name: [_told(one) for one in many] for name, many in value.attrs.items()}
        return {"table": columns, "index": _index(value.index), "named": value.columns.name, "told": told}
    is_tensor = type(value).__module__ == "torch"  # which this module does not import: the command line needs none
    if is_tensor or isinstance(value, np.ndarray):
        array = np.asarray(value)
        data = base64.b64encode(array.tobytes()).decode()
        return {"array": data, "dtype": str(array.dtype), "shape": array.shape, "torch": is_tensor}
    if isinstance(value, dict):
        return {"dict": [[encoded(k), encoded(v)] for k, v in value.items()]}
    if isinstance(value, list):
        return [encoded(v) for v in value]
    if type(value) is tuple:
        return {"tuple": [encoded(v) for v in value]}
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return value
    kind = type(value)
    if kind.__module__.partition(".")[0] != PACKAGE or not (names := _fields(kind)):
        raise TuningVecError(f"{kind.__qualname__}: no such object can be exported; give tables, arrays, or records")
    return {"record": f"{kind.__module__}:{kind.__qualname__}", "of": [encoded(getattr(value, n)) for n in names]}


def decoded(value: Any) -> Any:
    """The object that `encoded` was given; raises TuningVecError for a record that is none of this package's."""
    if isinstance(value, list):
        return [decoded(v) for v in value]
    if not isinstance(value, dict):
        return value
    if "table" in value:
        index, columns = _decoded_index(value["index"]), [_decoded_column(c) for c in value["table"]]
        table = pd.DataFrame({i: c.set_axis(index) for i, c in enumerate(columns)}, index=index)
        table.columns = pd.Index([c.name for c in columns], name=value["named"])
        table.attrs |= {name: Told(many) for name, many in value["told"].items()}
        return table
    if "array" in value:
        array = np.frombuffer(bytearray(base64.b64decode(value["array"])), value["dtype"]).reshape(value["shape"])
        return _tensor(array) if value["torch"] else array
    if "dict" in value:
        return {decoded(k): decoded(v) for k, v in value["dict"]}
    if "tuple" in value:
        return tuple(map(decoded, value["tuple"]))
    return _class(value["record"])(*map(decoded, value["of"]))


def _tensor(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(array)


def _fields(kind: type) -> tuple[str, ...]:
    return tuple(f.name for f in fields(kind)) if is_dataclass(kind) else getattr(kind, "_fields", ())


def _class(name: str) -> type:
    module, _, path = name.partition(":")
    if module.partition(".")[0] == PACKAGE:
        kind = getattr(importlib.import_module(module), path, None)
        if isinstance(kind, type) and _fields(kind):
            return kind
    raise TuningVecError(f"{name}: no record of this package; only those are read from a file")


def _told(one: dict[str, Any]) -> dict[str, Any]:
    """A run less what was asked in it: a page shows but the weights among its inputs."""
    if "inputs" not in one:
        return one
    return {field: one[field] for field in OF_A_RUN} | {"inputs": {"weights": one["inputs"].get("weights", {})}}


def _column(column: pd.Series) -> dict[str, Any]:
    values = [None if value is pd.NA else encoded(value) for value in column.tolist()]
    return {"name": encoded(column.name), "dtype": str(column.dtype), "values": values}


def _decoded_column(column: dict[str, Any]) -> pd.Series:
    values = [decoded(value) for value in column["values"]]
    return pd.Series(values, dtype=column["dtype"], name=decoded(column["name"]))


def _index(index: pd.Index) -> Any:
    """A count for rows that are numbered from 0, else the levels."""
    if index.equals(pd.RangeIndex(len(index))) and index.name is None:
        return len(index)
    return [_column(index.get_level_values(i).to_series()) for i in range(index.nlevels)]


def _decoded_index(index: Any) -> pd.Index:
    if isinstance(index, int):
        return pd.RangeIndex(index)
    levels = [_decoded_column(level) for level in index]
    if len(levels) == 1:
        return pd.Index(levels[0], name=levels[0].name)
    return pd.MultiIndex.from_arrays(levels, names=[level.name for level in levels])
