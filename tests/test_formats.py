"""What files are, told by their content under any name."""

import io
import pickle
import zipfile

import numpy as np
import pytest
import torch

from pops.policies.formats import what_is
from pops.policies.stable_baselines import read
from pops.support.errors import ConfigurationError


def zipped(path, *names):
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, b"{}")


def torch_file(path, **options):
    torch.save({"0.weight": torch.ones(2, 2)}, path, **options)


def script(path):
    torch.jit.save(torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)), path)


def folder(path, *names):
    path.unlink(missing_ok=True)
    path.mkdir()
    for name in names:
        (path / name).write_bytes(b"")


FILES = {
    "a file of Stable-Baselines (2)": lambda path: zipped(path, "data", "parameters", "parameter_list"),
    "a zip of Stable-Baselines3 without policy.pth": lambda path: zipped(path, "data", "_stable_baselines3_version"),
    "a Keras file": lambda path: zipped(path, "metadata.json", "config.json", "model.weights.h5"),
    "a zip of other files": lambda path: zipped(path, "readme.txt"),
    "a PyTorch state dictionary or model": torch_file,
    "a TorchScript module": script,
    "arrays of NumPy": lambda path: path.write_bytes(npz()),
    "a damaged zip": lambda path: path.write_bytes(b"PK\x03\x04" + bytes(100)),
    "an HDF5 file": lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100)),
    "an ONNX file": lambda path: path.write_bytes(b"\x08\x0a\x12\x07pytorch\x1a\x05"),
    "a TensorFlow Lite file": lambda path: path.write_bytes(b"\x1c\0\0\0TFL3" + bytes(50)),
    "a safetensors file": lambda path: path.write_bytes((40).to_bytes(8, "little") + b'{"a": 1}' + b" " * 40),
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"weights": [1.0, 2.0]})),
    "a pointer of Git LFS": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:1\n"),
    "a web page": lambda path: path.write_text("\n<!DOCTYPE html><html></html>"),
    "an empty file": lambda path: path.write_bytes(b""),
    "a file of an unknown kind": lambda path: path.write_text("weights: 1, 2, 3"),
    "an RLlib checkpoint": lambda path: folder(path, "rllib_checkpoint.json", "algorithm_state.pkl"),
    "an unpacked file of Stable-Baselines3": lambda path: folder(path, "data", "policy.pth"),
    "a TensorFlow SavedModel": lambda path: folder(path, "saved_model.pb"),
    "a folder without a policy": lambda path: folder(path, "readme.txt"),
    "a missing file": lambda path: None,
}


def npz():
    stream = io.BytesIO()
    np.savez(stream, kernel=np.ones(3))
    return stream.getvalue()


@pytest.mark.parametrize("what", FILES)
def test_files_are_told_apart_and_refused_with_the_way_to_go(tmp_path, what):
    path = tmp_path / "policy.zip"
    FILES[what](path)
    assert what_is(path) == what
    with pytest.raises(ConfigurationError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path} is {what}: ") and "\n" not in message
    assert ("damaged" in message) == (what == "a damaged zip")


@pytest.mark.parametrize("first", [{}, {"domain": "a"}, {"model_version": 1}, {"doc_string": "a"}, {"producer_name": "a"}])
def test_onnx_files_are_known_by_any_of_their_first_fields(tmp_path, first):
    onnx = pytest.importorskip("onnx")
    onnx.save(onnx.helper.make_model(onnx.helper.make_graph([], "a", [], []), **first), tmp_path / "a")
    assert what_is(tmp_path / "a") == "an ONNX file"


def test_old_files_of_pytorch(tmp_path):
    torch_file(tmp_path / "a", _use_new_zipfile_serialization=False)
    assert what_is(tmp_path / "a") == "a PyTorch state dictionary or model"
