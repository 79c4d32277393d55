"""Checkpoints: trees of values as JSON and arrays, without pickle."""

import json
import os
import re
import zipfile

import numpy as np
import tensorflow as tf

from pops.support.errors import Damaged, one_line
from pops.support.files import check_seal, checksum, replacing, seal


class Part:
    """Arrays that do not change any more: checkpoints share a file that holds them and is written once.

    Args:
        arrays: {name: array}; None once they are written, to save memory.
        name: of the file.
    """

    def __init__(self, arrays, name=None):
        self.arrays, self.name = arrays, name


# What is written as an array: how to tell it, and how to get it back.
_ARRAYS = {
    "tensor": (tf.is_tensor, tf.constant),
    "array": (lambda value: isinstance(value, np.ndarray) and not value.dtype.hasobject, lambda array: array),
    "scalar": (lambda value: isinstance(value, np.bool_ | np.number), lambda array: array[()]),
}


def _pack(value, arrays, parts):
    """A value as what JSON can hold. Its arrays and tensors are appended to `arrays`, its Parts to `parts`."""
    if value is None or type(value) in (bool, int, float, str):
        return value
    for kind, (fits, _) in _ARRAYS.items():
        if fits(value):
            arrays.append(np.asarray(value))
            return [kind, len(arrays) - 1]
    if isinstance(value, Part):
        parts.append(value)
        return ["part", len(parts) - 1]
    if isinstance(value, dict):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a checkpoint cannot hold a dictionary whose keys are not text")
        return ["dict", {key: _pack(part, arrays, parts) for key, part in value.items()}]
    if isinstance(value, list | tuple):
        return ["list" if isinstance(value, list) else "tuple", [_pack(part, arrays, parts) for part in value]]
    raise TypeError(f"a checkpoint cannot hold a {type(value).__name__}")


def _unpack(packed, arrays, parts):
    if not isinstance(packed, list):
        return packed
    kind, content = packed
    if kind in _ARRAYS:
        return _ARRAYS[kind][1](arrays[content])
    if kind == "part":
        return parts[content]
    if kind == "dict":
        return {key: _unpack(part, arrays, parts) for key, part in content.items()}
    return {"list": list, "tuple": tuple}[kind](_unpack(part, arrays, parts) for part in content)


def _write_archive(path, text, arrays):
    """Writes JSON text and arrays as a sealed archive as NumPy writes it, but with images compressed."""
    with zipfile.ZipFile(path, "w", compresslevel=1) as archive:
        for index, array in enumerate([np.frombuffer(text.encode(), np.uint8), *arrays]):
            images = array.dtype == np.uint8 and array.ndim > 1
            archive.compression = zipfile.ZIP_DEFLATED if images else zipfile.ZIP_STORED
            with archive.open(f"arr_{index}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
    seal(path)


def write_values(path, value):
    """Writes a tree of dictionaries, lists, tuples, arrays, tensors, Parts, numbers and text as a sealed file.

    Returns:
        The names of the files of its Parts, which lie in the same folder.
    """
    arrays, parts = [], []
    packed = _pack(value, arrays, parts)
    for part in parts:
        if part.name is None:
            part.name, part.arrays = _write_part(path.parent, part.arrays), None
    names = [part.name for part in parts]
    with replacing(path) as temporary:
        _write_archive(temporary, json.dumps([packed, names]), arrays)
    return names


def _write_part(folder, arrays):
    with replacing(folder / "new.part.npz") as temporary:
        _write_archive(temporary, json.dumps(list(arrays)), list(arrays.values()))
    name = f"{checksum(folder / 'new.part.npz')}.part.npz"
    os.replace(folder / "new.part.npz", folder / name)
    return name


def _read_archive(path):
    """The JSON content and the arrays of a sealed archive. Raises Damaged."""
    try:
        check_seal(path)
        with np.load(path, allow_pickle=False) as archive:
            text, *arrays = (archive[f"arr_{index}"] for index in range(len(archive.files)))
        return json.loads(text.tobytes()), arrays
    except Exception as error:  # a damaged archive brings many kinds, and one made to look sealed brings others
        raise Damaged(_in_a_line(error)) from None


def _in_a_line(error):
    return one_line(error, 120) or type(error).__name__


def _read_part(folder, name):
    if not re.fullmatch(r"[0-9a-f]{64}\.part\.npz", name) or checksum(folder / name) != name.partition(".")[0]:
        raise Damaged(f"its part {name} is missing, damaged or another one")
    names, arrays = _read_archive(folder / name)
    return Part(dict(zip(names, arrays, strict=True)), name)


def read_values(path):
    """What `write_values` wrote, equal to the bit, and what it returned. Named tuples come back as tuples."""
    content, arrays = _read_archive(path)
    try:
        packed, names = content
        return _unpack(packed, arrays, [_read_part(path.parent, name) for name in names]), names
    except Exception as error:
        raise Damaged(_in_a_line(error)) from None


class Checkpoints:
    """The checkpoints of a run, in a folder of their own: the newest, and the one before in case the newest is damaged.

    Args:
        folder: their folder.
        owner: text that tells the run from others; another run's checkpoint is refused.
    """

    def __init__(self, folder, owner):
        self.folder, self.owner = folder, owner
        self.good = []  # the newest last
        self.parts = {}  # path -> names of the files that it shares with others

    def paths(self):
        """The checkpoints, the newest last."""
        return sorted((p for p in self.folder.glob("*.npz") if p.stem.isdecimal()), key=lambda path: int(path.stem))

    def write(self, value):
        """Raises OSError if it cannot be written; the ones before are still there then."""
        self.folder.mkdir(exist_ok=True)
        number = max((int(path.stem) for path in self.paths()), default=0) + 1
        path = self.folder / f"{number:06}.npz"
        self.parts[path] = write_values(path, {"owner": self.owner, "number": number, "value": value})
        self.good = [*self.good, path][-2:]
        for old in set(self.paths()) - set(self.good):
            old.unlink()
        used = {name for good in self.good for name in self.parts[good]}
        for old in self.folder.glob("*.part.npz"):
            if old.name not in used:
                old.unlink()

    def read(self, on_damage):
        """The newest value that is not damaged, or None where there are no checkpoints.

        Args:
            on_damage: called with each damaged file and in what way it is.

        Raises:
            Damaged: all of them are.
        """
        paths = self.paths()
        for path in reversed(paths):
            try:
                content, names = read_values(path)
                if not isinstance(content, dict) or set(content) != {"owner", "number", "value"}:
                    raise Damaged("it is no checkpoint")
                if (content["owner"], content["number"]) != (self.owner, int(path.stem)):
                    raise Damaged("it is another run's, or was renamed")
            except Damaged as error:
                on_damage(path, error)
            else:
                self.good, self.parts[path] = [path], names
                return content["value"]
        if paths:
            raise Damaged("no checkpoint is left that is not damaged")
        return None
