"""Policies as C99 headers."""

import ctypes
import itertools
import math
import os
import re
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import keras
import numpy as np

from pops.support.errors import ConfigurationError, RunFailed


class Layer(NamedTuple):
    """A layer with weights, as the header has it. Dense layers have no places and one input axis.

    Attributes:
        kernel, bias: NumPy arrays, the kernel as [inputs, outputs].
        relu: whether ReLU follows.
        places: the places of its outputs, {loop variable: number}; outputs lie behind one another for each place.
        inputs: the inputs of a place, {loop variable: number}.
        element: a C expression, the input of these loop variables.
        read: indices of the numbers that it reads, where that are not all; else ().
    """

    kernel: np.ndarray
    bias: np.ndarray
    relu: bool
    places: dict
    inputs: dict
    element: str
    read: tuple

    @property
    def units(self):
        return len(self.bias)

    @property
    def size(self):
        """Number of its outputs."""
        return math.prod(self.places.values()) * self.units


# Layers that are written as C, or that say only how numbers lie.
KNOWN = tuple(getattr(keras.layers, name) for name in ("InputLayer", "Rescaling", "Permute", "Flatten", "Conv2D", "Dense"))


def c_layers(network):
    """The layers of a network as `load_teacher` gives it: dense ones, maybe after convolutions of frames.

    Raises:
        ConfigurationError: a weight is no finite number.
    """
    layers, pixel = [], None

    def refuse(what):
        raise ConfigurationError(f"{network.name}: {what}; students that were shrunk have ReLU")

    for layer in network.layers:
        if not isinstance(layer, KNOWN):
            refuse(f"has a layer {type(layer).__name__} ({layer.name}), which is not written as C")
        if isinstance(layer, keras.layers.Rescaling):
            if layers or not isinstance(network.layers[-1], keras.layers.Dense):
                refuse(f"scales its outputs ({layer.name}), which is not written as C")
            # The bytes are read where they lie, channels first, and need no Permute.
            pixel = "in[(c * {height} + {row}) * {width} + {column}]" + f" * {_float(layer.scale)} + {_float(layer.offset)}"
        if not layer.get_weights():
            continue
        kernel, bias = layer.get_weights()
        if not np.isfinite(kernel).all() or not np.isfinite(bias).all():
            raise ConfigurationError(f"{network.name}: layer {layer.name} has weights that are no finite numbers")
        if layer.activation.__name__ not in ("relu", "linear"):
            refuse(f"has {layer.activation.__name__}, which needs a C library")
        if pixel and not isinstance(layer, keras.layers.Conv2D):
            refuse("scales its inputs, which is written as C for frames only")
        places, inputs, element = {}, {"i": kernel.shape[0]}, "in[i]"
        if isinstance(layer, keras.layers.Conv2D):
            _, height, width, _ = layer.input.shape
            (down, across), (rows, columns, channels, _) = layer.strides, kernel.shape
            places = dict(zip("yx", layer.output.shape[1:3], strict=True))
            inputs = {"i": rows, "j": columns, "c": channels}
            element = (pixel or f"in[({{row}} * {{width}} + {{column}}) * {channels} + c]").format(
                row=f"({down} * y + i)", column=f"{across} * x + j", height=height, width=width
            )
            pixel = None
        kernel, read = kernel.reshape(-1, kernel.shape[-1]), ()
        used = kernel.any(axis=1)
        if not layers and not places and used.any() and not used.all():
            kernel, read = kernel[used], tuple(np.flatnonzero(used))
            inputs, element = {"i": len(read)}, "in[policy_read[i]]"
        layers.append(Layer(kernel, bias, layer.activation.__name__ == "relu", places, inputs, element, read))
    return layers


def quantised(kernel):
    """A kernel [inputs, outputs] as int8 and a scale for each output, float32 [outputs]: kernel ≈ int8 * scale."""
    largest = np.abs(kernel).max(axis=0)
    scale = np.where(largest > 1e-30, largest, 1).astype(np.float32) / np.float32(127)
    return np.round(kernel / scale).astype(np.int8), scale


def c_header(network, title, name, int8=False, bounds=()):
    """A policy as the text of a C99 header.

    Args:
        network: plain Keras network as `load_teacher` gives it.
        title: what its comment begins with.
        name: what the include guard is named after.
        int8: write kernels as int8 with a scale for each output; biases, activations and sums stay float.
        bounds: least and greatest values of continuous actions; () for discrete ones.
    """
    layers = c_layers(network)
    read, last = layers[0].read, layers[-1]
    shape, frames = network.input_shape[1:], network.inputs[0].dtype == "uint8"
    buffers = [max((layer.size for layer in layers[first:-1:2]), default=0) for first in (0, 1)]
    # What a layer reads and writes, from the first to the last.
    ends = ["observation", *("ab"[index % 2] for index in range(len(layers) - 1)), "outputs"]
    guard = f"POLICY_{re.sub('[^A-Z0-9]', '_', name.upper())}_H"
    kind = "unsigned char" if frames else "float"
    constants = sum(layer.kernel.size * (1 if int8 else 4) + layer.units * (8 if int8 else 4) for layer in layers)
    constants += 4 * len(read)
    stack = 4 * (sum(buffers) + last.units + max(layer.units for layer in layers))
    widths = " -> ".join(
        f"{'x'.join(map(str, [*layer.places.values(), layer.units]))}{' ReLU' if layer.relu else ''}" for layer in layers
    )
    lines = [
        f"/* {re.sub('[^A-Za-z0-9_.-]', '_', title)}: a policy, from observation to action. C99 or C++.",
        " *",
        f" * observation: {kind} [{']['.join(map(str, shape))}] as the environment gives it"
        f"{', the oldest frame first' if frames else ''}.",
        *([f" * Only {len(read)} of its numbers are read: see policy_read."] if read else []),
        f" * outputs: float [{last.units}], "
        + ("the action, before its bounds." if bounds else "one for each action, before any softmax."),
        f" * Layers: {'x'.join(map(str, shape))} -> {widths}.",
        f" * About {constants:,} bytes of constants and {stack:,} of stack. No libraries, no allocation.",
        *(
            [
                " * int8: weights are int8 times a float scale for each output of a layer. Biases, activations and",
                " * sums are float.",
            ]
            if int8
            else []
        ),
        " *",
        " *     policy_act(observation, action);  (the outputs within their bounds)"
        if bounds
        else " *     int action = policy_act(observation);  (the largest output, the first of equals)",
        " */",
        f"#ifndef {guard}",
        f"#define {guard}",
        "",
        f"enum {{ POLICY_INPUTS = {math.prod(shape)}, POLICY_ACTIONS = {last.units} }};",
        "",
    ]
    if read:
        lines += _c_array("policy_read", "unsigned int", np.array(read))
    for number, layer in enumerate(layers, 1):
        lines += _c_layer(number, layer, kind if number == 1 else "float", int8)
    lines += [
        f"static inline void policy_outputs(const {kind} *observation, float *outputs)",
        "{",
        *(f"    float {name}[{size}];" for name, size in zip("ab", buffers, strict=True) if size),
        *(f"    policy_layer_{n}({i}, {o});" for n, (i, o) in enumerate(itertools.pairwise(ends), 1)),
        "}",
        "",
        *(_act_within(bounds) if bounds else _act_largest(kind)),
        "",
        "#endif",
    ]
    return "\n".join(lines) + "\n"


def _act_largest(kind):
    """The function that chooses the largest output, as lines of C."""
    return [
        f"static inline int policy_act(const {kind} *observation)",
        "{",
        "    float outputs[POLICY_ACTIONS];",
        "    int best = 0;",
        "    policy_outputs(observation, outputs);",
        "    for (int k = 1; k < POLICY_ACTIONS; k++)",
        "        if (outputs[k] > outputs[best])",
        "            best = k;",
        "    return best;",
        "}",
    ]


def _act_within(bounds):
    """The function that keeps the outputs within bounds, as lines of C."""
    low, high = (
        _c_array(f"policy_{name}", "float", np.array(side)) for name, side in zip(("low", "high"), bounds, strict=True)
    )
    return [
        *low,
        *high,
        "static inline void policy_act(const float *observation, float *action)",
        "{",
        "    policy_outputs(observation, action);",
        "    for (int k = 0; k < POLICY_ACTIONS; k++)",
        "        action[k] = action[k] < policy_low[k] ? policy_low[k]",
        "                  : action[k] > policy_high[k] ? policy_high[k] : action[k];",
        "}",
    ]


def _c_layer(number, layer, kind, int8):
    """A layer's constants and the function that computes it, as lines of C."""
    weights, scale = quantised(layer.kernel) if int8 else (layer.kernel, None)
    arrays = [("weights", "signed char" if int8 else "float", weights), ("biases", "float", layer.bias)]
    if int8:
        arrays.append(("scales", "float", scale))
    lines = []
    for name, form, array in arrays:
        lines += _c_array(f"policy_{name}_{number}", form, array)

    def place(variables):
        """The number of a tuple of loop variables, as C."""
        text = ""
        for name, count in variables.items():
            text = f"({text}) * {count} + {name}" if " " in text else f"{text} * {count} + {name}" if text else name
        return text

    units = layer.units
    unit = {"k": units}
    add = [
        f"const float value = {layer.element};",
        *_c_loops(unit, [f"sum[k] += value * policy_weights_{number}[{place(layer.inputs | unit)}];"]),
    ]
    total = f"sum[k]{f' * policy_scales_{number}[k]' if int8 else ''} + policy_biases_{number}[k]"
    target = f"out[{place(layer.places | unit)}]"
    finish = [f"const float value = {total};", f"{target} = value > 0 ? value : 0;"]
    body = [
        f"float sum[{units}] = {{0}};",
        *_c_loops(layer.inputs, add),
        *_c_loops(unit, finish if layer.relu else [f"{target} = {total};"]),
    ]
    return [
        *lines,
        f"static inline void policy_layer_{number}(const {kind} *in, float *out)",
        "{",
        *("    " + line for line in _c_loops(layer.places, body)),
        "}",
        "",
    ]


def _c_loops(ranges, body):
    """Lines of C in nested loops over {variable: number}."""
    for name, count in reversed(ranges.items()):
        loop = f"for (int {name} = 0; {name} < {count}; {name}++)"
        braces = len(body) > 1 and not body[0].startswith("for ")
        body = [loop + (" {" if braces else ""), *("    " + line for line in body), *(["}"] if braces else [])]
    return body


def _c_array(name, form, array):
    """A constant array as lines of C, its numbers written so that they read back exactly."""
    values = [_float(value) if form == "float" else str(value) for value in array.reshape(-1)]
    width = 8 if form == "float" else 20
    rows = [", ".join(values[first : first + width]) for first in range(0, len(values), width)]
    if len(rows) == 1:
        return [f"static const {form} {name}[{len(values)}] = {{{rows[0]}}};"]
    return [f"static const {form} {name}[{len(values)}] = {{", *(f"    {row}," for row in rows), "};"]


def _float(value):
    """A number as a float constant of C: the shortest text that reads back as the same float32."""
    return f"{np.float32(value)!s}f"


FLAGS = ("-O2", "-std=c99")

# What is compiled to check a header: it takes observations one after the other from a batch.
DRIVER = """
#include <stddef.h>
#include "policy.h"

void run_batch(const KIND *observations, long count, float *outputs, NUMBER *actions)
{
    for (long i = 0; i < count; i++) {
        if (outputs != NULL)
            policy_outputs(observations + i * POLICY_INPUTS, outputs + i * POLICY_ACTIONS);
        ACT;
    }
}
"""

ACT = "actions[i] = policy_act(observations + i * POLICY_INPUTS)"

ACT_WITHIN = "policy_act(observations + i * POLICY_INPUTS, actions + i * POLICY_ACTIONS)"


def c_compiler():
    """The command of the system's C compiler, or None."""
    named = os.environ.get("CC", "").split()
    commands = [named] if named else [["cc"], ["gcc"], ["clang"]]
    return next((command for command in commands if shutil.which(command[0])), None)


class CompiledPolicy:
    """The same as `litert_runtime` for a C header, compiled into a library of this process.

    Args:
        path: the header.
        observations, outputs: arrays of the types and shapes that it takes and gives.
        compiler: command of a C compiler.
        bounds: see `c_header`.

    Raises:
        RunFailed: it does not compile.
    """

    def __init__(self, path, observations, outputs, compiler, bounds=()):
        self.type, self.actions, self.bounds = observations.dtype, outputs.shape[-1], bounds
        with tempfile.TemporaryDirectory() as folder:
            shutil.copy(path, Path(folder, "policy.h"))
            kind = "unsigned char" if self.type == "uint8" else "float"
            number, act = ("float", ACT_WITHIN) if bounds else ("int", ACT)
            source = DRIVER.replace("KIND", kind).replace("NUMBER", number).replace("ACT;", f"{act};")
            Path(folder, "check.c").write_text(source)
            command = [*compiler, *FLAGS, "-shared", "-fPIC", "-o", "check.so", "check.c"]
            result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
            if result.returncode:
                raise RunFailed(f"{compiler[0]} does not compile the header: {' '.join(result.stderr.split())[:300]}")
            self.function = ctypes.CDLL(f"{folder}/check.so").run_batch
        self.function.argtypes = [ctypes.c_void_p, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
        self.function.restype = None

    def __call__(self, observations):
        observations = np.ascontiguousarray(observations, self.type)
        outputs = np.empty((len(observations), self.actions), np.float32)
        actions = self.room(len(observations))
        self.function(observations.ctypes.data, len(observations), outputs.ctypes.data, actions.ctypes.data)
        return outputs, actions

    def room(self, count):
        """Room for so many actions."""
        return np.empty((count, self.actions), np.float32) if self.bounds else np.empty(count, np.int32)

    def nanoseconds(self, observations):
        """Time of `policy_act`, the least of some passes over observations."""
        observations, actions = np.ascontiguousarray(observations, self.type), self.room(len(observations))
        times = []
        for _ in range(5):
            start = time.perf_counter_ns()
            self.function(observations.ctypes.data, len(observations), None, actions.ctypes.data)
            times.append(time.perf_counter_ns() - start)
        return min(times) / len(observations)
