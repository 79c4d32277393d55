"""Policies of the paper's published code, read from its TensorFlow 1 checkpoints.

TensorFlow is imported where it is needed, so that the command can refuse bad arguments at once.
"""

import contextlib
import functools
import re
import shlex
from pathlib import Path, PureWindowsPath

import numpy as np

from pops.support.errors import ConfigurationError, one_line

# The output layers of the published code. LunarLander's is the actor's before its softmax.
OUTPUTS = {"cartpole": "relu", "lunarlander": "linear", "pong": "linear"}

INPUT_SCALE = 256  # the published code divides Pong's grey levels, 0 to 255, by this in its graph

# What is not the network has a name that goes on: fc_1/weights/RMSProp, fc_1/weights/ExponentialMovingAverage.
VARIABLE = re.compile(r"(?:(.*)/)?((?:conv|fc)_\d+|logits)/(weights|biases|mask)")


def import_published(checkpoint, environment, settings, out, scope, scale):
    """Writes a checkpoint's network as a teacher. Returns a line about it.

    Args:
        checkpoint: see `checkpoint_path`.
        environment, settings: a key of OUTPUTS, and its group `model`.
        out: Keras file to write.
        scope: see `choose`.
        scale: what the published network divides grey levels by.

    Raises:
        ConfigurationError: it is no checkpoint of a network for this environment.
    """
    from pops.model import AGENTS
    from pops.support.files import make_folder
    from pops.support.networks import save_network
    from pops.utils import count_weights

    path, kind = checkpoint_path(checkpoint), AGENTS[environment].teacher
    settings["output_activation"] = OUTPUTS[environment]
    fitted = functools.partial(build, kind, settings, scale)
    scope, teacher = choose(path, read_networks(path), scope, fitted)
    make_folder(out.parent)
    save_network(teacher.network, out)
    weights, nonzero = count_weights(teacher.network)
    units = "-".join(map(str, [settings["observation_shape"][0], *teacher.widths, settings["actions"]]))
    origin = f", from the scope {scope}" if scope else ""
    return f"{out}: {environment}, layers {units}, {weights:,} weights, {nonzero:,} nonzero{origin}"


def checkpoint_path(path):
    """A checkpoint's path without its files' endings, from that path, from one of its files, or from its folder.

    Raises:
        ConfigurationError: there is none, or the folder holds several and does not say which.
    """
    import tensorflow as tf

    if path.is_dir():
        found, state = sorted(file.stem for file in path.glob("*.index")), None
        with contextlib.suppress(ValueError):  # raised where its file `checkpoint` is no text
            state = tf.train.get_checkpoint_state(path)
        if state:
            # It names the path where the checkpoint was written, on Linux or Windows; the files lie here now.
            found = [PureWindowsPath(state.model_checkpoint_path).name]
        if len(found) != 1:
            names = f"several checkpoints, {', '.join(found)}; give the path of one" if found else "no checkpoint"
            raise ConfigurationError(f"{path}: holds {names}")
        path = path / found[0]
    path = Path(re.sub(r"\.(index|meta|data-\d+-of-\d+)$", "", str(path)))
    if not Path(f"{path}.index").is_file():
        raise ConfigurationError(f"{path}: no checkpoint, as there is no file {path}.index")
    return path


def read_networks(path):
    """The layers in a checkpoint: {scope: {layer: {weights, biases or mask: float32 array}}}. Runs no code from it.

    Raises:
        ConfigurationError: it is damaged, or has no such layers.
    """
    import tensorflow as tf

    networks = {}
    try:
        reader = tf.train.load_checkpoint(str(path))
        names = sorted(reader.get_variable_to_shape_map())
        for name, match in ((name, VARIABLE.fullmatch(name)) for name in names):
            if match:
                scope, layer, part = match.groups(default="")
                array = np.asarray(reader.get_tensor(name), np.float32)
                networks.setdefault(scope, {}).setdefault(layer, {})[part] = array
    except Exception as error:  # TensorFlow raises many kinds for what is no checkpoint
        reason = one_line(error, 200)
        raise ConfigurationError(f"{path}: damaged, or no checkpoint ({reason})") from None
    if not networks:
        some = ", ".join(names[:3]) or "nothing"
        raise ConfigurationError(f"{path}: holds no layers such as fc_1/weights and logits/weights, but {some}")
    return networks


def choose(path, networks, wanted, build):
    """(scope, teacher) of the one network that fits the environment.

    Args:
        path: of the checkpoint, for messages.
        networks: as `read_networks` returns them.
        wanted: the scope to take, or None for any.
        build: makes the teacher from a scope and its layers; raises ConfigurationError where they do not fit.

    Raises:
        ConfigurationError: none or several fit.
    """

    def options(scopes):
        return " or ".join(f"--scope {shlex.quote(scope)}" for scope in scopes)

    if wanted is not None and wanted.strip("/") not in networks:
        raise ConfigurationError(f"{path}: has no layers under {options([wanted])}; try {options(networks)}")
    teachers, problems = {}, []
    for scope in networks if wanted is None else [wanted.strip("/")]:
        try:
            teachers[scope] = build(scope, networks[scope])
        except ConfigurationError as problem:
            problems.append(str(problem))
    if not teachers:
        raise ConfigurationError(f"{path}: no network that fits: {'; '.join(problems)}")
    if len(teachers) > 1:
        raise ConfigurationError(f"{path}: {len(teachers)} networks fit; choose one with {options(teachers)}")
    return teachers.popitem()


def build(agent, settings, scale, scope, layers):
    """The teacher that computes what a published network does.

    Args:
        agent: the teacher's class.
        settings: its group `model`.
        scale: what the published network divides grey levels by.
        scope, layers: of the network, as `read_networks` returns them.

    Raises:
        ConfigurationError: they are not a whole network, or not one for the environment.
    """
    images, under = len(getattr(agent, "convolutions", ())), f"{scope}/" if scope else ""
    names = sorted(layers, key=lambda name: (name[0], len(name), name))  # conv_2, ..., conv_10, fc_1, ..., logits
    # The published code counts on from the convolutions: Pong's dense layer is fc_4. A count from 1 is as clear.
    dense = 1 if images else max(1, sum(name.startswith("fc") for name in names))
    convolutions = [f"conv_{number}" for number in range(1, images + 1)]
    orders = [[*convolutions, *(f"fc_{start + n}" for n in range(dense)), "logits"] for start in (images + 1, 1)]
    if names not in orders:
        raise ConfigurationError(f"{under}({', '.join(names)}) should be {', '.join(orders[0])}")
    if missing := [f"{name}/{part}" for name in names for part in ("weights", "biases") if part not in layers[name]]:
        raise ConfigurationError(f"{under}{missing[0]} is missing")
    widths = [(layers[name]["weights"].shape or (0,))[-1] for name in names[:-1]]
    if 0 in widths:
        raise ConfigurationError(f"{under}{names[widths.index(0)]} has no units")
    teacher = agent(settings, widths)
    arrays = []
    for name, kernel, bias in zip(names, *(teacher.network.weights[start::2] for start in (0, 1)), strict=True):
        parts = {}
        for part, shape in (("weights", kernel.shape), ("biases", bias.shape), ("mask", kernel.shape)):
            parts[part] = layers[name].get(part, np.ones(shape)).astype(np.float64)  # only a mask may be left out
            if parts[part].shape != shape:
                raise ConfigurationError(f"{under}{name}/{part} is {list(parts[part].shape)} and should be {list(shape)}")
            if not np.isfinite(parts[part]).all():
                raise ConfigurationError(f"{under}{name}/{part} holds values that are not finite")
        # Adding zero turns the -0.0 of a masked negative weight into 0.0.
        arrays += [parts["weights"] * parts["mask"] + 0.0, parts["biases"]]
    if images:
        # Published networks see frame / scale, ours c = (frame - background) / contrast. The published k · frame / scale is
        # (k · contrast / scale) · c + k · background / scale, another kernel and bias; at the edges too, without padding.
        arrays[1] = arrays[1] + arrays[0].sum(axis=(0, 1, 2)) * settings["background"] / scale
        arrays[0] = arrays[0] * agent.contrast / scale
    teacher.network.set_weights(arrays)
    return teacher
