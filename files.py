"""What a run reads and writes: whole files or none, sealed with a checksum, checkpoints without pickle, one run a folder.

Apart from `utils.py` because `model.py` reads sealed files and `utils.py` builds on `model.py`.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import tensorflow as tf

from configs import ConfigurationError


class Damaged(ValueError):
    """A file is not what was written. The message says in what way."""


# Whole files or none


def unfinished(folder):
    """The files in a folder that `replacing` had begun to write when its process was killed."""
    return [path for path in folder.glob(".*.writing*") if path.is_file()]


@contextlib.contextmanager
def replacing(path):
    """Gives a temporary path beside `path`; when the block ends well, that file is flushed and replaces `path`."""
    path = Path(path)
    temporary = path.with_name(f".{path.stem}.writing{path.suffix}")
    try:
        yield temporary
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    finally:
        with contextlib.suppress(OSError):  # what went wrong before says more
            temporary.unlink(missing_ok=True)


def _flush(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path, content):
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


# Sealed files. Keras files and checkpoints are zip archives, which may end with a comment: the SHA-256 of all before it.

_SEAL_BYTES = len("sha256:") + 64
_END_BYTES = 22  # of the record that ends an archive; its last two bytes are the length of the comment


def seal(path):
    """Ends a zip archive that has no comment with the checksum of the whole file."""
    with open(path, "r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(_SEAL_BYTES.to_bytes(2, "little"))
        file.seek(0)
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        file.seek(0, os.SEEK_END)
        file.write(f"sha256:{digest}".encode())


def check_seal(path, needed=True):
    """Raises Damaged unless a zip archive is as it was sealed.

    Args:
        needed: otherwise an archive without a seal, from elsewhere, has to fit only its own, weaker checksums.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - _SEAL_BYTES - _END_BYTES))
        end = file.read()
        if not needed and end[-_END_BYTES:].startswith(b"PK\5\6") and end.endswith(b"\0\0"):
            with zipfile.ZipFile(path) as archive:
                if broken := archive.testzip():
                    raise Damaged(f"its part {broken} does not fit its checksum")
            return
        found = re.fullmatch(rb"sha256:([0-9a-f]{64})", end[-_SEAL_BYTES:])
        if not found:
            raise Damaged("it does not end as it was written")
        digest, left = hashlib.sha256(), size - _SEAL_BYTES
        file.seek(0)
        while left:
            part = file.read(min(left, 2**20))
            digest.update(part)
            left -= len(part)
        if digest.hexdigest().encode() != found[1]:
            raise Damaged("it does not fit its checksum")


def checksum(path):
    """SHA-256 of a file, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# The checksums of a folder's files, in the format of the program sha256sum: a file that took another's place is noticed.

_LIST = "SHA256SUMS"


def _listed(folder):
    """{name: checksum} of the files that a folder lists."""
    try:
        lines = (folder / _LIST).read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return {}
    return {name: digest for digest, _, name in (line.partition("  ") for line in lines)}


def _list(folder, listed):
    with replacing(folder / _LIST) as temporary:
        temporary.write_text("".join(f"{listed[name]}  {name}\n" for name in sorted(listed)))


@contextlib.contextmanager
def listing(path):
    """Lists a file's checksum in its folder when the block, which writes the file, ends well."""
    folder, listed = path.parent, _listed(path.parent)
    if listed.pop(path.name, None):  # so that a kill in between leaves no wrong line
        _list(folder, listed)
    yield
    _list(folder, listed | {path.name: checksum(path)})


def check_listed(path):
    """Raises Damaged if a file is not the one that its folder lists under this name."""
    path = Path(path)
    listed = _listed(path.parent)
    if path.name in listed and listed[path.name] != checksum(path):
        raise Damaged(f"it is not the file that {path.parent / _LIST} lists")


# Values as JSON and arrays. Only the kinds below are written, and only they come back: no code, no pickle.


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
    return " ".join(str(error).split())[:120] or type(error).__name__


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


def lock(folder):
    """Locks a folder for this process, for as long as it lives. Returns a handle, whose closing unlocks it.

    Raises:
        ConfigurationError: another process has it, or it cannot be locked.
    """
    handle = None
    try:
        handle = os.open(folder, os.O_RDONLY)
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if handle is not None:
            os.close(handle)
        if isinstance(error, BlockingIOError):
            message = "another process is running there; wait for it to end, or give another --out"
        else:
            message = f"cannot be locked ({error.strerror}); give another --out"
        raise ConfigurationError(f"{folder}: {message}") from None
    return handle
