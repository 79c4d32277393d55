"""What a policy's file is, told by its content alone."""

import pickletools
import zipfile
from pathlib import Path

from pops.support.errors import ConfigurationError

_ONNX = "export the network to ONNX and give that file: torch.onnx.export(network, observation, 'policy.onnx')"

# What a file is -> the way to go with it; for the kinds that PoPS reads, how they are given.
_WAYS = {
    "a file of Stable-Baselines3": "give it as the teacher",
    "a file of Stable-Baselines (2)": "its TensorFlow 1 networks are not read; export the actor to ONNX (with tf2onnx), or "
    "build it in Keras from the arrays in 'parameters' and save it as .keras",
    "an unpacked file of Stable-Baselines3": "give the .zip, or zip what is in the folder",
    "a zip of Stable-Baselines3 without policy.pth": "save the model again by model.save(...); if SBX wrote it, its "
    "weights are pickled, so give compress() a function: lambda states: model.predict(states, deterministic=True)[0]",
    "a TorchScript module": "give it as the teacher",
    "a PyTorch state dictionary or model": f"the file does not say how its layers are connected; {_ONNX}",
    "a program of torch.export": _ONNX,
    "a Keras file": "give it as the teacher",
    "an HDF5 file": "if Keras wrote a whole model, give it as the teacher; weights alone need a model: save it as .keras",
    "an ONNX file": "give it as the teacher",
    "a TensorFlow SavedModel": "load it in Keras and save it as .keras, or export it to ONNX with tf2onnx",
    "a TensorFlow Lite file": "give the model that it was converted from",
    "an RLlib checkpoint": "load it in Ray and export its policy's network (get_module() or get_policy().model) to ONNX",
    "the statistics of a VecNormalize": "it is no policy: give it by --normalizer",
    "a pickle": "unpickling runs what it holds, so it is not read; load it where it was made and export it to ONNX",
    "arrays of NumPy": "they do not say how the layers are connected; build the network in Keras and save it as .keras",
    "a safetensors file": f"it does not say how its layers are connected; {_ONNX}",
    "a pointer of Git LFS": "the file itself was not downloaded: run git lfs pull",
    "a web page": "download the file itself, not the page that shows it",
    "an empty file": "save or download it again",
    "a damaged zip": "save or download it again",
    "a zip of other files": "give a policy's file from within it",
    "a folder without a policy": "give a policy's file",
    "a missing file": "check the path",
    "a file of an unknown kind": "PoPS reads Stable-Baselines3, Keras, ONNX and TorchScript files",
}


def what_is(path):
    """What a file or folder is: a key of _WAYS."""
    path = Path(path)
    if path.is_dir():
        return _what_is_folder({item.name for item in path.iterdir()})
    if not path.is_file():
        return "a missing file"
    with open(path, "rb") as file:
        start = file.read(4096)
    if start[:2] == b"PK":
        return _what_is_zip(path)
    signatures = (
        (not start, "an empty file"),
        (start.startswith(b"\x89HDF\r\n"), "an HDF5 file"),
        (start[4:8] == b"TFL3", "a TensorFlow Lite file"),
        (start.startswith(b"\x93NUMPY"), "arrays of NumPy"),
        (start.startswith(b"version https://git-lfs"), "a pointer of Git LFS"),
        (start.lstrip()[:9].lower() in (b"<!doctype", b"<html>") or start.lstrip()[:5].lower() == b"<html", "a web page"),
        (start[8:9] == b"{" and start[4:8] == bytes(4), "a safetensors file"),
        # A model's first fields: its version of the format, then the first of the others that it has.
        (start[:1] == b"\x08" and start[1:2] < b"\x20" and start[2:3] in b"\x12\x1a\x22\x28\x32\x3a\x42", "an ONNX file"),
    )
    what = next((what for found, what in signatures if found), None)
    return what or _what_is_pickle(path) or "a file of an unknown kind"


_RLLIB = {"rllib_checkpoint.json", "algorithm_state.pkl", "policy_state.pkl", ".is_checkpoint", "class_and_ctor_args.pkl"}


def _what_is_folder(names):
    if names & _RLLIB:
        return "an RLlib checkpoint"
    if any(name.startswith("checkpoint-") and name.removeprefix("checkpoint-").isdigit() for name in names):
        return "an RLlib checkpoint"
    if {"data", "policy.pth"} <= names:
        return "an unpacked file of Stable-Baselines3"
    return "a TensorFlow SavedModel" if "saved_model.pb" in names else "a folder without a policy"


def _what_is_zip(path):
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (OSError, zipfile.BadZipFile):
        return "a damaged zip"
    inner = {name.split("/", 1)[-1] for name in names}  # PyTorch's lie in a folder
    contents = (
        ({"data", "policy.pth"} <= set(names), "a file of Stable-Baselines3"),
        ({"data", "parameters"} <= set(names), "a file of Stable-Baselines (2)"),
        ("data" in names and "_stable_baselines3_version" in names, "a zip of Stable-Baselines3 without policy.pth"),
        ("model.weights.h5" in names, "a Keras file"),
        ("archive_format" in inner or "serialized_exported_program.json" in inner, "a program of torch.export"),
        ("constants.pkl" in inner and any(name.startswith("code/") for name in inner), "a TorchScript module"),
        ("data.pkl" in inner, "a PyTorch state dictionary or model"),
        (bool(names) and all(name.endswith(".npy") for name in names), "arrays of NumPy"),
    )
    return next((what for found, what in contents if found), "a zip of other files")


def _what_is_pickle(path):
    """What a pickle is by the names and texts in it, which are listed without running anything; None if it is none."""
    texts = []
    try:
        with open(path, "rb") as file:
            for _, argument, _ in pickletools.genops(file):
                if argument == 0x1950A86A20F9469CFC6C:  # PyTorch's mark, before it wrote zips
                    return "a PyTorch state dictionary or model"
                texts += [argument] if isinstance(argument, str) else []
    except Exception:  # whatever pickletools finds wrong
        # One that breaks off is still a pickle; a text file's first letter may be taken for an instruction.
        if path.read_bytes()[:1] != b"\x80":
            return None
    text = " ".join(texts)
    kinds = (("vec_normalize VecNormalize", "the statistics of a VecNormalize"), ("ray.rllib", "an RLlib checkpoint"))
    return next((what for mark, what in kinds if mark in text), "a pickle")


def is_stable_baselines(path):
    """Whether a file is one that Stable-Baselines3's `save` writes."""
    return what_is(path) == "a file of Stable-Baselines3"


def refuse(path):
    """Refuse a file that is no policy of the kind that is wanted.

    Raises:
        ConfigurationError: always; says what the file is and the way to go with it.
    """
    what = what_is(path)
    raise ConfigurationError(f"{path} is {what}: {_WAYS[what]}")
