"""A policy that was read as arrays, as the agent that PoPS prunes and the network that plays."""

import keras
import numpy as np

from pops.model import ConvolutionalAgent
from pops.policies.stack import Space, action_map
from pops.support.errors import ConfigurationError


def agent_of(stack, kind, settings, environment, normaliser=None):
    """The agent of an environment that does what a stack of layers does.

    Mean and variance of a normaliser are folded into the agent's network. Its clipping cannot be, so the network that plays
    has layers for all of it.

    Args:
        stack: Stack.
        kind: class of the agent.
        settings: the configuration's group `model`, of the environment.
        environment: its id, for messages.
        normaliser: Normaliser of the observations, or None.

    Raises:
        ConfigurationError: the two do not fit.
    """
    images = issubclass(kind, ConvolutionalAgent)
    if images != bool(stack.convolutions):
        wanted, found = ("a CNN", "an MLP") if images else ("an MLP", "a CNN")
        raise ConfigurationError(f"its policy is {found} policy, and {environment} needs {wanted} policy")
    stack.refuse_shape(settings["observation_shape"], environment)
    squash, affine = _actions(stack, settings, environment)
    own = settings | {"output_activation": stack.activations[-1], "squash": squash}
    dense = _last_layer(stack, affine)
    if images:
        return _of_images(stack, dense, kind, own, normaliser)
    if stack.image_scale != 1:
        raise ConfigurationError("its MLP policy sees images; give a policy with convolutions")
    hidden = set(stack.activations[:-1])
    if len(hidden) > 1:
        raise ConfigurationError(f"its hidden layers have different activations, {' and '.join(sorted(hidden))}")
    agent = kind(own | {"hidden_activation": hidden.pop() if hidden else "relu"}, [len(bias) for _, bias in dense[:-1]])
    agent.network.set_weights(_flat(_normalised(dense, normaliser)))
    if normaliser:
        agent.played = _normalising(agent, dense, normaliser)
        _compare(agent, dense, normaliser)
    return agent


def _flat(layers):
    return [array for layer in layers for array in layer]


def _actions(stack, settings, environment):
    """What joins the stack's actions to the environment's.

    Returns:
        the setting `model.squash`, and scale and offset of plain continuous actions, or None.

    Raises:
        ConfigurationError: nothing can.
    """
    file, bounds, factors = stack.action_space, settings["bounds"], settings["factors"]
    if bounds:
        low, high = (np.asarray(side) for side in bounds)
        theirs = Space("Box", low.shape, low=low, high=high)
        if file.kind == "Box":  # several axes are flat here
            sides = (np.ravel(side) for side in (file.low, file.high))
            file = Space("Box", (file.width,), **dict(zip(("low", "high"), sides, strict=True)))
        scale, offset = _map(file, theirs, environment)
        if not stack.squash:
            return {}, (scale, offset)
        # From tanh's -1 to 1 to the file's actions, and from there into the environment's bounds.
        by, plus = (np.ravel(side) for side in stack.squash_map)
        scale, offset = by * scale, plus * scale + offset
        return {"clip": stack.pre_squash_clip, "scale": scale.tolist(), "offset": offset.tolist()}, None
    if file.kind == "MultiBinary":
        file = Space("MultiDiscrete", (file.width,), nvec=np.full(file.width, 2))
    kind, nvec = ("MultiDiscrete", factors) if factors else ("Discrete", [settings["actions"]])
    _map(file, Space(kind, (len(nvec),) if factors else (), nvec=np.array(nvec)), environment)
    return {}, None


def _map(file, theirs, environment):
    try:
        return action_map(file, theirs)
    except ConfigurationError as error:
        raise ConfigurationError(f"{str(error).replace('the environment', environment)}") from None


def _last_layer(stack, affine):
    """The dense layers, the last one with the outputs that PoPS has: two for a binary action, scaled for a plain one."""
    *hidden, (kernel, bias) = stack.dense
    if stack.action_space.kind == "MultiBinary":  # 1 where the output is above 0
        both = np.vstack([kernel, bias])
        both = np.stack([np.zeros_like(both), both], axis=-1).reshape(len(both), -1)
        kernel, bias = both[:-1], both[-1]
    elif affine:
        scale, offset = affine
        kernel, bias = (kernel * scale).astype(np.float32), (bias * scale + offset).astype(np.float32)
    return [*hidden, (kernel, bias)]


def _normalised(dense, normaliser):
    """The layers with a normaliser's mean and variance folded into the first."""
    if not normaliser:
        return dense
    (kernel, bias), *others = dense
    scale, mean = np.ravel(normaliser.scale)[:, None], np.ravel(normaliser.mean)
    folded = kernel.astype(np.float64) * scale
    return [(folded.astype(np.float32), (bias - mean @ folded).astype(np.float32)), *others]


def _normalising(agent, dense, normaliser):
    """The network that normalises and clips what it sees, as it did when it was trained."""
    (kernel, bias), *others = dense
    inputs = keras.Input(agent.settings["observation_shape"], name="observations", dtype=agent.observation_type)
    normalise = [
        keras.layers.Normalization(
            mean=np.ravel(normaliser.mean).tolist(),
            variance=np.ravel(normaliser.variance + normaliser.epsilon).tolist(),
            name="normalise",
        ),
    ]
    if normaliser.clips:
        normalise.append(keras.layers.Rescaling(1 / normaliser.clip, name="clip_in"))
        normalise.append(keras.layers.Activation("hard_tanh", name="clip"))
        kernel = kernel * np.float32(normaliser.clip)
    layers = agent.plain_network("layers").layers
    network = keras.Sequential([inputs, *normalise, *layers], name=agent.network.name)
    network.set_weights(_flat([(kernel, bias), *others]))
    return network


def _compare(agent, dense, normaliser):
    """Raises ConfigurationError where the network that plays does not do what the layers do with normalised observations:
    the statistics may be too extreme for its numbers."""
    noise = np.random.default_rng(0).normal(size=(64, *agent.settings["observation_shape"]))
    deviation, mean = np.ravel(1 / normaliser.scale), np.ravel(normaliser.mean)
    seen = [(factor * noise.reshape(64, -1) * deviation + mean).reshape(noise.shape) for factor in (1.0, 3.0, 30.0)]
    observations = np.concatenate(seen).astype(np.float32)
    layers = type(agent)(agent.settings, agent.widths).network
    layers.set_weights(_flat(dense))
    expected = np.asarray(
        layers(np.reshape(normaliser(observations.reshape(-1, *normaliser.mean.shape)), observations.shape))
    )
    error = np.abs(np.asarray(agent.played(observations)) - expected).max() / max(np.abs(expected).max(), 1e-30)
    if not error <= 1e-2:  # nor where one is no number
        raise ConfigurationError(
            f"normalised by its statistics, its outputs would be {error:.2g} of the largest off: they are too extreme for "
            "float32"
        )


def _of_images(stack, dense, kind, settings, normaliser):
    """An agent of frames, which are centred inside it.

    The stack sees x / scale + offset, the agent z = (x − background) / contrast: kernels become w · contrast / scale, and
    the first biases take on the rest. Without padding that is exact. An agent's own file has factor 1 and rest 0.
    """
    if normaliser:
        raise ConfigurationError("its frames are normalised by statistics, which PoPS does not take for images")
    shapes = tuple((kernel.shape[:2], stride) for kernel, _, stride in stack.convolutions)
    if shapes != tuple(((size, size), stride) for size, stride in kind.convolutions):
        found = ", ".join(f"{height}x{width} by {stride}" for (height, width), stride in shapes)
        raise ConfigurationError(f"its convolutions are {found}; PoPS takes the paper's, 8x8 by 4, 4x4 by 2, 3x3 by 1")
    if wrong := sorted(set(stack.activations[:-1]) - {"relu"}):
        raise ConfigurationError(f"it has {', '.join(wrong)} between its layers; PoPS takes ReLU after convolutions")
    factor, rest = kind.contrast / stack.image_scale, settings["background"] / stack.image_scale + stack.image_offset
    (kernel, bias, _), *others = [(w.astype(np.float64), b, s) for w, b, s in stack.convolutions]
    bias = bias + kernel.sum(axis=(0, 1, 2)) * rest
    arrays = [kernel * factor, bias]
    arrays += [array for w, b, _ in others for array in (w, b)] + _flat(dense)
    agent = kind(settings | {"hidden_activation": "relu"}, [len(b) for b in arrays[1:-1:2]])
    agent.network.set_weights([array.astype(np.float32) for array in arrays])
    return agent
