"""Writes a policy for other runtimes (LiteRT, ONNX, C) and checks that what it wrote acts and plays as the policy does."""

import ctypes
import importlib.util
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

import numpy as np

import common
from configs import ConfigurationError, RunFailed, is_atari

SUFFIXES = {"litert": ".tflite", "onnx": ".onnx", "c": ".h"}
PACKAGES = ("tf2onnx", "onnx", "onnxruntime")  # for ONNX; the others need none that the project does not need anyway
TIE = 1e-5  # outputs that lie this close, relative to the largest of all, may come in another order in another runtime
CALIBRATION = 500  # observations from which the converter takes the ranges of an int8 network's activations
SPREAD = 4  # observations are drawn from this many times as many, so that they come from all parts of episodes
MEMORY = 2**31  # bytes that those may take
ROWS = 1000  # observations that a runtime gets at once


def make_parser():
    parser = common.Parser(
        __doc__, "python scripts/export.py results/cartpole/seed0/student.keras --format c --out cartpole.h"
    )
    parser.add_policy_arguments()
    parser.add_argument("--format", required=True, choices=SUFFIXES, help="a LiteRT file, an ONNX file or a C99 header")
    parser.add_argument("--int8", action="store_true", help="weights of one byte (LiteRT: activations too); not for ONNX")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="ends with .tflite, .onnx or .h")
    parser.add_argument(
        "--observations",
        type=common.integer(1000, 100_000),
        default=1000,
        metavar="N",
        help="on which its actions are compared with the policy's (1000)",
    )
    parser.add_argument(
        "--episodes", type=common.integer(2, 100_000), metavar="N", help="that it plays (100; Atari games: 10)"
    )
    return parser


def main():
    arguments = make_parser().parse_args()

    def command():
        check_arguments(arguments)
        network, environment, config = common.read_policy(arguments)
        from files import replacing
        from model import agents_of, count_weights
        from utils import Seeds, log, make_folder

        make_folder(arguments.out.parent)
        seeds, bounds = Seeds(arguments.seed), config["model"]["bounds"]
        observations, outputs = played_observations(network, config, seeds, arguments.observations, "check")
        episodes = arguments.episodes or (10 if is_atari(config["environment"]) else 100)
        log(f"{arguments.model}: {environment}, {count_weights(network)[0]:,} weights")
        with replacing(arguments.out) as path:
            if arguments.format == "litert":
                examples = None
                if arguments.int8:
                    examples, _ = played_observations(network, config, seeds, CALIBRATION, "calibrate")
                write_litert(network, path, examples)
                run = litert_runtime(path)
            elif arguments.format == "onnx":
                write_onnx(network, path)
                run = onnx_runtime(path)
            else:
                stacked = agents_of(environment).teacher.from_network(network, config["model"], arguments.model).network
                path.write_text(c_header(stacked, network.name, arguments.out.stem, arguments.int8, bounds))
                compiler = c_compiler()
                run = CompiledPolicy(path, observations, outputs, compiler, bounds) if compiler else None
            if run:
                if bounds:
                    check_numbers(run, observations, outputs, bounds, exact=not arguments.int8)
                else:
                    check_actions(run, observations, outputs, exact=not arguments.int8)
                check_reward(run, network, config, seeds, episodes)
                if arguments.format == "c":
                    log(f"time: {run.nanoseconds(observations):,.1f} ns an action ({' '.join([*compiler, *FLAGS])})")
        if not run:
            raise RunFailed(f"{arguments.out}: written but not checked, as there is no C compiler (cc, gcc, clang or $CC)")
        log(f"{arguments.out}: {arguments.out.stat().st_size:,} bytes")

    common.run_command(command)


def check_arguments(arguments):
    """Raises ConfigurationError for what can be seen to be wrong before anything is read."""
    if arguments.int8 and arguments.format == "onnx":
        raise ConfigurationError("--int8: for --format litert and c only")
    suffix = SUFFIXES[arguments.format]
    if arguments.out.suffix != suffix:
        raise ConfigurationError(f"--out {arguments.out}: --format {arguments.format} needs a name that ends with {suffix}")
    missing = missing_packages()
    if arguments.format == "onnx" and missing:
        raise ConfigurationError(
            f"--format onnx: {', '.join(missing)} missing; install with: pip install -r requirements-export.txt"
        )


def missing_packages():
    """Those that ONNX needs and that are not installed."""
    return [name for name in PACKAGES if not importlib.util.find_spec(name)]


# The checks


def played_observations(network, config, seeds, count, purpose):
    """Observations of a policy that plays in its environment, drawn at random, and its outputs for them.

    Returns:
        [count, *observation_shape] of the environment's type, and float32 [count, actions].

    Raises:
        ConfigurationError: they would take too much memory.
    """
    from train import StateMemory

    size = math.prod(config["model"]["observation_shape"]) * np.dtype(network.inputs[0].dtype).itemsize
    if size * count * SPREAD > MEMORY:
        raise ConfigurationError(f"--observations {count}: at most {MEMORY // SPREAD // size:,} of this environment's")
    changes = {
        "capacity": SPREAD * count,
        "observe": SPREAD * count,
        "environments": count // 100,  # so that each plays some hundred steps
        "epsilon": config["evaluation"]["epsilon"],
    }
    memory = StateMemory(config | {"replay": config["replay"] | changes}, network, seeds)
    memory.fill("export", purpose)
    rows = seeds.generator("export", purpose).choice(memory.size, count, replace=False)
    return memory.arrays["observations"][rows], memory.arrays["teacher_outputs"][rows]


def check_actions(run, observations, expected, exact):
    """Compares actions with the Keras model's, and prints the result.

    Args:
        run: observations -> outputs and actions, as the `..._runtime` functions give it.
        observations: [n, *observation_shape].
        expected: the Keras model's outputs for them, float32 [n, actions].
        exact: whether they must be the same but for ties, where the Keras model itself hardly prefers one.

    Raises:
        RunFailed: they must be the same, and are not.
    """
    from utils import log

    results = [run(observations[first : first + ROWS]) for first in range(0, len(observations), ROWS)]
    outputs, actions = (np.concatenate(parts) for parts in zip(*results, strict=True))
    same = actions == expected.argmax(-1)
    lost = expected.max(-1) - np.take_along_axis(expected, actions[:, None].astype(np.int64), -1)[:, 0]
    ties = ~same & (lost <= TIE * np.abs(expected).max(-1))
    different = len(same) - np.count_nonzero(same | ties)
    share = "" if exact else f" ({100 * same.mean():.4g} %)"
    log(
        f"actions: {np.count_nonzero(same):,} of {len(same):,}{share} are the Keras model's, "
        f"{np.count_nonzero(ties):,} ties, {different:,} different; "
        f"outputs differ by {np.abs(outputs - expected).max():.2g} at most, of up to {np.abs(expected).max():.3g}"
    )
    if exact and different:
        raise RunFailed(f"{different:,} of {len(same):,} actions are not the Keras model's")


def check_numbers(run, observations, expected, bounds, exact):
    """The same as `check_actions` for continuous actions, which must be the same but for rounding.

    Args:
        bounds: least and greatest values of actions. A runtime that gives only outputs leaves these to its user.
    """
    from utils import log

    results = [run(observations[first : first + ROWS]) for first in range(0, len(observations), ROWS)]
    outputs, actions = (np.concatenate(parts) for parts in zip(*results, strict=True))
    if actions.shape != outputs.shape:
        actions = np.clip(outputs, *bounds)
    error, largest = np.abs(actions - np.clip(expected, *bounds)).max(), np.abs(bounds).max()
    log(
        f"actions: of {len(outputs):,}, none differs from the Keras model's by more than {error:.2g}, "
        f"of up to {largest:.3g}"
    )
    if exact and error > 1e-4 * largest:
        raise RunFailed(f"the actions differ from the Keras model's by up to {error:.2g}")


def check_reward(run, network, config, seeds, episodes):
    """Lets the exported policy and the Keras model play the same fresh episodes, and prints their rewards.

    Raises:
        RunFailed: the exported policy does not reach the objective, or where the environment has none, the Keras model's
            reward less one standard error.
    """
    import tensorflow as tf

    from train import report_rewards
    from utils import log, rewards_text

    def exported(observations):
        observations = tf.cast(observations, network.inputs[0].dtype)
        outputs = tf.numpy_function(lambda batch: run(batch)[0], [observations], tf.float32)
        return tf.ensure_shape(outputs, [observations.shape[0], config["model"]["actions"]])

    ours, theirs = (report_rewards(policy, config, seeds, episodes, "export") for policy in (exported, network))
    objective = config["evaluation"]["objective"]
    if objective is None:
        objective = float(np.nextafter(theirs["reward_mean"] - theirs["reward_stderr"], -np.inf))
    log(
        f"reward over {episodes} episodes ({common.way_to_act(config)}): {rewards_text(ours)}, "
        f"the Keras model's {rewards_text(theirs)}; objective {objective:g}"
    )
    if not ours["reward_mean"] > objective:
        raise RunFailed(f"the exported policy's reward, {rewards_text(ours)}, is not above the objective, {objective:g}")


# LiteRT and ONNX. Keras writes both.


def write_litert(network, path, examples=None):
    """Writes a LiteRT file.

    Args:
        examples: observations [n, *observation_shape] that the policy meets. With them weights and activations become int8,
            each in the range that it has for these; what goes in and comes out stays as it is.

    Raises:
        RunFailed: it cannot be converted.
    """
    import tensorflow as tf

    options = {}
    if examples is not None:
        options = {
            "optimizations": [tf.lite.Optimize.DEFAULT],
            "representative_dataset": lambda: ([observation[None]] for observation in examples),
            "target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]},
        }
        network = on_blocks(network)
    _keras_export(network, path, "litert", **options)


def on_blocks(network):
    """The same network in a form that is faster in int8; only one that begins with a convolution of frames changes.

    LiteRT is slow at transposing single bytes. As a stride never parts the columns that it steps over, the convolution can
    see blocks of them, whose bytes stay side by side. Its kernel and biases take over the centring of the frames; the
    kernel is already rounded to int8, so that the biases are right for the background: it is nearly all that there is.
    """
    import keras

    layers = [layer for layer in network.layers if not isinstance(layer, keras.layers.InputLayer)]
    kinds = keras.layers.Rescaling, keras.layers.Permute, keras.layers.Conv2D
    if tuple(type(layer) for layer in layers[:3]) != kinds or not isinstance(network, keras.Sequential):
        return network
    centre, permutation, first, *rest = layers
    frames, rows, columns = network.input_shape[1:]
    (height, width, _, filters), (down, across) = first.kernel.shape, first.strides
    plain = first.padding == "valid" and first.use_bias and first.groups == 1 and first.data_format == "channels_last"
    numbers = np.ndim(centre.scale) == np.ndim(centre.offset) == 0 and permutation.dims == (2, 3, 1)
    if not (plain and numbers) or width % across or columns % across:
        return network
    inputs = keras.Input(network.input_shape[1:], dtype=network.inputs[0].dtype)
    images = keras.ops.reshape(keras.ops.cast(inputs, "float32"), (-1, frames * rows, columns // across, across))
    images = keras.ops.concatenate(keras.ops.split(images, frames, axis=1), axis=-1)
    kernel, bias = first.get_weights()
    rounded, scale = quantised(kernel.reshape(-1, filters))
    kernel = (rounded * scale).reshape(kernel.shape)
    kernel, bias = kernel * centre.scale, bias + centre.offset * kernel.sum((0, 1, 2))
    blocks = kernel.reshape(height, width // across, across, frames, filters).swapaxes(2, 3)
    settings = first.get_config() | {"kernel_size": (height, width // across), "strides": (down, 1)}
    convolution = type(first).from_config(settings)
    outputs = convolution(images)
    convolution.set_weights([blocks.reshape(convolution.kernel.shape), bias])
    for layer in rest:
        copy = type(layer).from_config(layer.get_config())
        outputs = copy(outputs)
        copy.set_weights(layer.get_weights())
    return keras.Model(inputs, outputs, name=network.name)


def litert_runtime(path):
    """A LiteRT file as a function: observations [n, *observation_shape] -> outputs float32 [n, actions], actions [n]."""
    import tensorflow as tf

    with common.quiet():  # says that this interpreter will move to a package of its own
        interpreter = tf.lite.Interpreter(str(path))
    (inputs,), (outputs,) = interpreter.get_input_details(), interpreter.get_output_details()
    rows = None

    def run(observations):
        nonlocal rows
        if rows != len(observations):
            rows = len(observations)
            with common.quiet():
                interpreter.resize_tensor_input(inputs["index"], observations.shape)
                interpreter.allocate_tensors()
        interpreter.set_tensor(inputs["index"], observations)
        interpreter.invoke()
        return _with_actions(interpreter.get_tensor(outputs["index"]))

    return run


def write_onnx(network, path):
    """Writes an ONNX file. Keras asks that the network has been called."""
    _keras_export(network, path, "onnx")


def onnx_runtime(path):
    """The same for an ONNX file."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # more are no faster for networks this small
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda observations: _with_actions(session.run(None, {name: observations})[0])


def _keras_export(network, path, format, **options):
    failure = None
    with common.quiet():  # converters print much
        try:
            network.export(str(path), format=format, verbose=False, **options)
        except Exception as error:  # of many kinds
            failure = " ".join(str(error).split())[:300]
    if failure is not None:
        raise RunFailed(f"{network.name}: cannot be converted to {format} ({failure})")


def _with_actions(outputs):
    return outputs, outputs.argmax(-1)


# C


class Layer(NamedTuple):
    """A layer with weights, as the header has it. Dense layers have no places and one input axis.

    Attributes:
        kernel, bias: NumPy arrays, the kernel as [inputs, outputs].
        relu: whether ReLU follows.
        places: the places of its outputs, {loop variable: number}; outputs lie behind one another for each place.
        inputs: the inputs of a place, {loop variable: number}.
        element: a C expression, the input of these loop variables.
    """

    kernel: np.ndarray
    bias: np.ndarray
    relu: bool
    places: dict
    inputs: dict
    element: str

    @property
    def units(self):
        return len(self.bias)

    @property
    def size(self):
        """Number of its outputs."""
        return math.prod(self.places.values()) * self.units


def c_layers(network):
    """The layers of a network as `DQNAgent.load` gives it: dense ones, maybe after convolutions of frames.

    Raises:
        ConfigurationError: a weight is no finite number.
    """
    import keras

    layers, pixel = [], None
    for layer in network.layers:
        if isinstance(layer, keras.layers.Rescaling):
            # The bytes are read where they lie, channels first, and need no Permute.
            pixel = "in[(c * {height} + {row}) * {width} + {column}]" + f" * {_float(layer.scale)} + {_float(layer.offset)}"
        if not layer.get_weights():
            continue
        kernel, bias = layer.get_weights()
        if not np.isfinite(kernel).all() or not np.isfinite(bias).all():
            raise ConfigurationError(f"{network.name}: layer {layer.name} has weights that are no finite numbers")
        if layer.activation.__name__ == "tanh":
            raise ConfigurationError(
                f"{network.name}: has tanh, which needs a C library; students that were shrunk have ReLU"
            )
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
        kernel = kernel.reshape(-1, kernel.shape[-1])
        layers.append(Layer(kernel, bias, layer.activation.__name__ == "relu", places, inputs, element))
    return layers


def quantised(kernel):
    """A kernel [inputs, outputs] as int8 and a scale for each output, float32 [outputs]: kernel ≈ int8 * scale."""
    largest = np.abs(kernel).max(axis=0)
    scale = np.where(largest > 1e-30, largest, 1).astype(np.float32) / np.float32(127)
    return np.round(kernel / scale).astype(np.int8), scale


def c_header(network, title, name, int8=False, bounds=()):
    """A policy as the text of a C99 header.

    Args:
        network: plain Keras network as `DQNAgent.load` gives it.
        title: what its comment begins with.
        name: what the include guard is named after.
        int8: write kernels as int8 with a scale for each output; biases, activations and sums stay float.
        bounds: least and greatest values of continuous actions; () for discrete ones.
    """
    layers = c_layers(network)
    *_, last = layers
    shape, frames = network.input_shape[1:], network.inputs[0].dtype == "uint8"
    buffers = [max((layer.size for layer in layers[first:-1:2]), default=0) for first in (0, 1)]
    # What a layer reads and writes, from the first to the last.
    ends = ["observation", *("ab"[index % 2] for index in range(len(layers) - 1)), "outputs"]
    guard = f"POLICY_{re.sub('[^A-Z0-9]', '_', name.upper())}_H"
    kind = "unsigned char" if frames else "float"
    constants = sum(layer.kernel.size * (1 if int8 else 4) + layer.units * (8 if int8 else 4) for layer in layers)
    stack = 4 * (sum(buffers) + last.units + max(layer.units for layer in layers))
    widths = " -> ".join(
        f"{'x'.join(map(str, [*layer.places.values(), layer.units]))}{' ReLU' if layer.relu else ''}" for layer in layers
    )
    lines = [
        f"/* {re.sub('[^A-Za-z0-9_.-]', '_', title)}: a policy, from observation to action. C99 or C++.",
        " *",
        f" * observation: {kind} [{']['.join(map(str, shape))}] as the environment gives it"
        f"{', the oldest frame first' if frames else ''}.",
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


if __name__ == "__main__":
    main()
