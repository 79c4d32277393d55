"""Pickles read as data: every name becomes an inert record, and nothing of the file is run."""

import io
import pickle
import re

import numpy as np

from pops.support.errors import ConfigurationError, one_line


class Record:
    """An object of a pickle, of which only the name, the arguments and the state are kept.

    The base of all that a pickle can call: as `__setstate__` is everyone's own, no pickle can set attributes by BUILD.
    """

    name = ""

    def __new__(cls, *arguments, **_options):
        self = object.__new__(cls)
        self.arguments, self.state = arguments, {}
        return self

    def __setstate__(self, state):
        if isinstance(state, dict):
            self.state = state


class _Type(Record):
    """numpy.dtype, of numbers and booleans alone: an array of objects would be pickles within the pickle."""

    def __new__(cls, code, *_flags):
        self = object.__new__(cls)
        if not re.fullmatch(r"[?biufc]\d*", str(code)):
            raise ConfigurationError(f"it holds an array of NumPy's type {str(code)[:20]!r}; only numbers are read")
        self.dtype = np.dtype(code)
        return self

    def __setstate__(self, state):
        self.dtype = self.dtype.newbyteorder(state[1] if state[1] in "<>" else "=")


class _Array(Record):
    """numpy.ndarray, made empty by `_reconstruct` and then given its state."""

    def __new__(cls, *_arguments):
        self = object.__new__(cls)
        self.value = None
        return self

    def __setstate__(self, state):
        _version, shape, kind, columns_first, data = state
        self.value = _values(data, kind, shape, "F" if columns_first else "C")


class _Buffer(Record):
    """numpy's `_frombuffer`: an array of protocol 5."""

    def __new__(cls, data, kind, shape, order="C"):
        self = object.__new__(_Array)
        self.value = _values(data, kind, shape, order)
        return self


class _Scalar(Record):
    """numpy's `scalar`: a number."""

    def __new__(cls, kind, data):
        return _values(data, kind, (), "C")[()]


class _Encoded(Record):
    """_codecs.encode: bytes, as protocols before 3 write them."""

    def __new__(cls, text, encoding):
        return str(text).encode("latin1" if encoding != "ascii" else "ascii")


class _Dictionary(Record, dict):
    """collections.OrderedDict."""

    def __new__(cls, *_arguments):
        return dict.__new__(cls)

    def __init__(self, *arguments):
        dict.__init__(self, *arguments)


def _values(data, kind, shape, order):
    """An array from its bytes."""
    if isinstance(data, str):  # of Python 2 and of old protocols
        data = data.encode("latin1")
    return np.frombuffer(bytes(data), kind.dtype).reshape(shape, order=order).copy()


# The names that files of Stable-Baselines3 hold. Random generators come along with the spaces, and are of no use here.
_NAMES = (
    (r"numpy\.dtype", _Type),
    (r"numpy\.(core|_core)\.multiarray\._reconstruct", _Array),
    (r"numpy\.(core|_core)\.multiarray\.scalar", _Scalar),
    (r"numpy\.(core|_core)\.numeric\._frombuffer", _Buffer),
    (r"_codecs\.encode", _Encoded),
    (r"collections\.OrderedDict", _Dictionary),
    (r"numpy\.(ndarray|bool_?|(u?int|float)(8|16|32|64))", Record),
    (r"numpy\.random\.(\w+\.)?\w+", Record),
    (r"(gym|gymnasium)\.spaces\.\w+\.\w+", Record),
    (r"(gym|gymnasium)\.utils\.seeding\.[\w.]+", Record),
    (r"stable_baselines3\.common\.running_mean_std\.RunningMeanStd", Record),
    (r"stable_baselines3\.common\.vec_env\.vec_normalize\.VecNormalize", Record),
)


class _Reader(pickle.Unpickler):
    """An unpickler that finds none but these names."""

    def find_class(self, module, name):
        full = f"{module}.{name}"
        base = next((kind for pattern, kind in _NAMES if re.fullmatch(pattern, full)), None)
        if base is None:
            raise ConfigurationError(f"it names {full[:100]!r}, which such a file has no use for; nothing of it was run")
        # A class of its own for each, so that what a pickle does to one is gone after it.
        return type(name, (base,), {"name": full})


def read_pickle(data):
    """The values in a pickle, without running anything of it.

    Args:
        data: bytes of the pickle.

    Returns:
        numbers, texts, lists and dictionaries; Record for objects; arrays where `value_of` is applied.

    Raises:
        ConfigurationError: it names something that such files have no use for, or is no pickle.
    """
    try:
        return _Reader(io.BytesIO(data), encoding="latin1").load()
    except ConfigurationError as error:
        raise ConfigurationError(one_line(error, 200)) from None
    except Exception as error:  # whatever a damaged pickle brings about
        raise ConfigurationError(f"it is damaged, or no pickle ({one_line(error, 200) or type(error).__name__})") from None


def value_of(item):
    """An array where a pickle's item is one, else the item."""
    return item.value if isinstance(item, _Array) else item
