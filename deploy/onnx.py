"""Policies as ONNX files."""

import importlib.util

from pops.deploy.convert import convert, with_actions

PACKAGES = ("tf2onnx",)  # that the project needs for nothing else


def missing_packages():
    """Those that writing ONNX needs and that are not installed."""
    return [name for name in PACKAGES if not importlib.util.find_spec(name)]


def write_onnx(network, path):
    """Writes an ONNX file. Keras asks that the network has been called."""
    convert(network, path, "onnx")


def onnx_runtime(path):
    """An ONNX file as a function: observations [n, *observation_shape] -> outputs float32 [n, actions], actions [n]."""
    from pops.support.runtime import open_session  # which imports what writing other formats does not need

    session = open_session(str(path))
    name = session.get_inputs()[0].name
    return lambda observations: with_actions(session.run(None, {name: observations})[0])
