"""Keras files of plain networks: read without running code, written so that the same network gives the same bytes."""

import contextlib
import json
import re
import zipfile

import keras

from pops.support.errors import ConfigurationError, one_line
from pops.support.files import check_listed, check_readable, check_seal, listing, replacing, seal


def read_network(path):
    """Reads a Keras file. Never runs code from it (Keras safe mode).

    Raises:
        ConfigurationError: no such file, a damaged or another one than was written there, not a readable Keras model, or
            one that needs code.
    """
    check_readable(path)
    of_keras_2 = _version(path).startswith("2.")
    try:
        check_listed(path)
        if not is_hdf5(path):  # which has no place for a seal
            check_seal(path, needed=False)
        network = keras.models.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # Keras raises many kinds for what is no model file
        reason = one_line(error)
        if of_keras_2:
            needs = f"written by Keras 2, and this is Keras {keras.__version__}; save it there as .h5, or export it to ONNX"
        else:
            needs = _needs(reason) or f"damaged, or no Keras model file ({reason[:200]})"
        raise ConfigurationError(f"{path}: {needs}") from None
    if of_keras_2 and "hard_sigmoid" in json.dumps(network.get_config(), default=str):
        raise ConfigurationError(
            f"{path}: written by Keras 2, whose hard_sigmoid was another function than today's; export it to ONNX there"
        )
    return network


def _version(path):
    """The version of Keras that wrote a file; "" where it does not say."""
    with contextlib.suppress(Exception):  # what is no model file
        if is_hdf5(path):
            import h5py

            with h5py.File(path) as file:
                return str(file.attrs["keras_version"])
        with zipfile.ZipFile(path) as archive:
            return str(json.loads(archive.read("metadata.json"))["keras_version"])
    return ""


def is_hdf5(path):
    """Whether a file is of Keras's older format."""
    with open(path, "rb") as file:
        return file.read(4) == b"\x89HDF"


def _needs(reason):
    """What a whole file lacks for being read, by the text of Keras's error; None if that is something else."""
    instead = "give the network itself to compress(), or export it to ONNX"
    if "No model config found" in reason:
        return (
            "holds weights alone, not how the layers are connected; build the network, load_weights() them, and save it as "
            ".keras"
        )
    if re.search(r"`Lambda` layer|safe_mode=False", reason):
        return f"has a Lambda layer, whose Python code is not run from a file; {instead}"
    unknown = re.search(r"Could not locate (?:class|function) '([^']+)'|Unknown layer: '(?:\w+>)?([^']+)'", reason)
    if unknown:
        name = unknown[1] or unknown[2]
        if hasattr(keras.ops, re.sub("(?<!^)(?=[A-Z])", "_", name).lower()):  # as in x - keras.ops.mean(x)
            return f"has the operation {name} between its layers, which Keras does not read from HDF5; save it as .keras"
        return f"needs the Python code of {name}, which is not one of Keras's own and not in the file; {instead}"
    return None


def save_network(network, path):
    """Writes a Keras file, sealed and listed in its folder. It replaces a file of that name when it is whole.

    The same network gives the same bytes: times are left out, and addresses in memory, which Keras writes as the numbers of
    shared objects, are numbered anew.
    """
    numbers = {}

    def renumber(found):
        return b"%s%d" % (found[1], numbers.setdefault(found[2], len(numbers)))

    with listing(path), replacing(path) as temporary:
        network.save(temporary)
        with zipfile.ZipFile(temporary) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
        metadata = json.loads(parts["metadata.json"])
        del metadata["date_saved"]
        parts["metadata.json"] = json.dumps(metadata).encode()
        parts["config.json"] = re.sub(rb'("shared_object_id": )(\d+)', renumber, parts["config.json"])
        with zipfile.ZipFile(temporary, "w") as archive:
            for name, content in parts.items():
                archive.writestr(zipfile.ZipInfo(name), content)
        seal(temporary)


def check_shapes(network, path, settings):
    """Raises ConfigurationError unless a network fits the environment with these `model` settings."""
    shapes = getattr(network, "input_shape", None), getattr(network, "output_shape", None)
    wanted = (None, *settings["observation_shape"]), (None, settings["actions"])
    if shapes != wanted:
        raise ConfigurationError(
            f"{path} ({network.name}): takes {shapes[0]} and gives {shapes[1]}; "
            f"this environment needs {wanted[0]} and {wanted[1]}"
        )
