"""Files: whole or not at all, sealed with a checksum, listed in their folder; and a folder's lock."""

import contextlib
import hashlib
import json
import os
import re
import zipfile
from pathlib import Path

from filelock import FileLock, Timeout

from pops.support.errors import ConfigurationError, Damaged


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
    """Makes a file, or a folder's list of files, reach the disk."""
    if os.name == "nt" and path.is_dir():
        return  # Windows has no such thing for folders
    handle = os.open(path, os.O_RDWR if os.name == "nt" else os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path, content):
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")


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


LOCK = ".lock"
IN_USE = "another process is running there"


def lock(folder):
    """Locks a folder for this process, for as long as it lives. Returns the lock, which has `release`.

    Raises:
        ConfigurationError: another process has it, or it cannot be locked.
    """
    held = FileLock(Path(folder) / LOCK)
    try:
        held.acquire(timeout=0)
    except Timeout:
        raise ConfigurationError(f"{folder}: {IN_USE}; wait for it to end, or give another --out") from None
    except OSError as error:
        raise ConfigurationError(f"{folder}: cannot be locked ({error.strerror}); give another --out") from None
    return held


ROOT = Path(__file__).resolve().parent.parent


def portable(path):
    """A path as text: from the project's folder if it lies in there, else absolute."""
    path = Path(path).resolve()
    return str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)


def check_readable(path):
    """Raises ConfigurationError unless a file is there and can be read."""
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        raise ConfigurationError(f"{path}: cannot be read ({error.strerror})") from None


NO_NORMALIZER = "none"  # in place of a path: observations are not normalised, whatever lies beside the agent


def check_normalizer(path):
    """Raises ConfigurationError unless the statistics of a normaliser can be read, where some are named."""
    if path is not None and str(path) != NO_NORMALIZER:
        check_readable(path)


def make_folder(path):
    """Makes a folder where there is none. Raises ConfigurationError if that cannot be."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigurationError(f"{path}: no folder can be made there ({error.strerror}); write elsewhere") from None
    return Path(path)
