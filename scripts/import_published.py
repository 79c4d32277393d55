"""Turns a TensorFlow 1 checkpoint of the paper's published code into a teacher that pops.py takes."""

import contextlib
import functools
import os
import re
import shlex
from pathlib import Path, PureWindowsPath

import common
from configs import ConfigurationError, configuration

# The output layers of the published code. LunarLander's is the actor's before its softmax.
OUTPUTS = {"cartpole": "relu", "lunarlander": "linear", "pong": "linear"}
INPUT_SCALE = 256  # the published code divides Pong's grey levels, 0 to 255, by this in its graph
# What is not the network has a name that goes on: fc_1/weights/RMSProp, fc_1/weights/ExponentialMovingAverage.
VARIABLE = re.compile(r"(?:(.*)/)?((?:conv|fc)_\d+|logits)/(weights|biases|mask)")


def main():
    parser = common.Parser(__doc__, "python scripts/import_published.py network_dense/model.ckpt cartpole teacher.keras")
    parser.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="its path, such as model.ckpt-1000, or folder")
    parser.add_argument("environment", metavar="ENV", help=" or ".join(OUTPUTS))
    parser.add_argument("out", type=Path, metavar="OUT", help="Keras file to write; it must not exist yet")
    parser.add_argument("--scope", metavar="NAME", help="which network, where several in the checkpoint fit")
    parser.add_argument(
        "--input-scale",
        type=float,
        metavar="N",
        help=f"what the network divides grey levels by, Pong only ({INPUT_SCALE}, as in the published code)",
    )
    arguments = parser.parse_args()
    environment, out, scale = arguments.environment, arguments.out, arguments.input_scale

    def command():
        settings = configuration(environment)["model"]
        if environment not in OUTPUTS:
            raise ConfigurationError(f"{environment}: its network is not in the published code; {', '.join(OUTPUTS)} are")
        if scale is not None and not (environment == "pong" and 1 <= scale <= 1e6):
            raise ConfigurationError(f"--input-scale {scale:g}: only for pong, and from 1 to 1,000,000")
        if out.suffix != ".keras":
            raise ConfigurationError(f"{out}: the name of a Keras file ends with .keras")
        if os.path.lexists(out):
            raise ConfigurationError(f"{out}: exists already; remove it or give another name")
        common.import_tensorflow()
        from model import AGENTS, count_weights, save_network
        from utils import log, make_folder

        path, kind = checkpoint_path(arguments.checkpoint), AGENTS[environment].teacher
        settings["output_activation"] = OUTPUTS[environment]
        fitted = functools.partial(build, kind, settings, scale or INPUT_SCALE)
        scope, teacher = choose(path, read_networks(path), arguments.scope, fitted)
        make_folder(out.parent)
        save_network(teacher.network, out)
        weights, nonzero = count_weights(teacher.network)
        units = "-".join(map(str, [settings["observation_shape"][0], *teacher.widths, settings["actions"]]))
        origin = f", from the scope {scope}" if scope else ""
        log(f"{out}: {environment}, layers {units}, {weights:,} weights, {nonzero:,} nonzero{origin}")

    common.run_command(command)


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
    import numpy as np
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
        reason = " ".join(str(error).split())[:200]
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
    import numpy as np

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
        arrays[1] = arrays[1] + arrays[0].sum(axis=(0, 1, 2)) * agent.background / scale
        arrays[0] = arrays[0] * agent.contrast / scale
    teacher.network.set_weights(arrays)
    return teacher


if __name__ == "__main__":
    main()
