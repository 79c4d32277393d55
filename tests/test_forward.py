"""Networks in NumPy against Keras's own outputs."""

import keras
import numpy as np
import pytest

from pops.configs import configuration
from pops.model import AGENTS, agents_of
from pops.policies.stack import ACTIVATIONS
from pops.support.forward import agent_policy, in_numpy, in_onnx, network_policy, student_policy

OBSERVATIONS = np.random.default_rng(1).normal(0, 2, [3, 7, 4]).astype(np.float32)
FRAMES = np.random.default_rng(1).normal(0, 20, [1, 5, 12, 10, 2]).astype(np.float32)
SQUASH = {"clip": 2.0, "scale": [2.0, 0.5], "offset": [1.0, 0.0]}


def settings(**changes):
    return configuration("cartpole")["model"] | changes


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_plain_network_gives_in_numpy_what_it_gives_in_keras(activation):
    agent = agents_of("Echo-v0").teacher(settings(hidden_activation=activation, squash=SQUASH), [6, 5])
    agent.network.set_weights(agent.initial_weights(np.random.default_rng(0), 0.3))
    assert in_numpy(agent.network)
    outputs = network_policy(agent.network)(OBSERVATIONS[:1])
    assert outputs.dtype == np.float32
    np.testing.assert_allclose(outputs[0], agent.network(OBSERVATIONS[0]), rtol=1e-5, atol=1e-5)
    again = agent_policy(agent)([2 * weight for weight in agent.network.get_weights()])(OBSERVATIONS[:1])
    agent.network.set_weights([2 * weight for weight in agent.network.get_weights()])
    np.testing.assert_allclose(again[0], agent.network(OBSERVATIONS[0]), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("activation", ["relu", "leaky_relu_0.01"])
def test_members_give_in_numpy_what_they_give_in_keras(activation):
    student = agents_of("Echo-v0").student(settings(hidden_activation=activation, squash=SQUASH), [6, 5], members=3)
    generator = np.random.default_rng(0)
    weights = student.initial_weights(generator, 0.3)
    masks = [(generator.random(mask.shape) < 0.6).astype(np.float32) for mask in student.full_masks()]
    assert in_numpy(student.network)
    outputs = student_policy(student)(weights, masks)(OBSERVATIONS)
    np.testing.assert_allclose(outputs, student(weights, masks, OBSERVATIONS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "network",
    [
        AGENTS["pong"].teacher(configuration("pong")["model"], [1, 1, 1, 1]).network,
        keras.Sequential([keras.Input([4]), keras.layers.Dense(2, use_bias=False)]),
        keras.Sequential([keras.Input([4]), keras.layers.Dense(2, "softmax")]),
        keras.Sequential([keras.Input([4]), keras.layers.LayerNormalization(), keras.layers.Dense(2)]),
        keras.Model(inputs := keras.Input([4]), keras.layers.Dense(2)(inputs)),
        keras.Sequential([keras.Input([4]), keras.layers.Dense(10**6)]),
    ],
    ids=["convolutions", "no bias", "softmax", "another layer", "no Sequential", "large"],
)
def test_all_other_networks_are_left_to_keras(network):
    assert in_numpy(network) is None
    shape = network.input_shape[1:]
    observations = np.random.default_rng(0).integers(0, 9, [1, 2, *shape]).astype(network.inputs[0].dtype)
    np.testing.assert_allclose(network_policy(network)(observations)[0], network(observations[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name, widths", [("pong", [2, 3, 2, 5]), ("pong", [8, 8, 8, 2600])], ids=["small", "large"])
def test_convolutional_networks_give_the_same_for_all_numbers_of_copies(name, widths):
    config, generator = configuration(name)["model"], np.random.default_rng(0)
    student = AGENTS[name].student(config, widths, members=2)
    weights, masks = student.initial_weights(generator, 0.3), student.full_masks()
    plain = student.plain(weights, masks, 1)
    frames = generator.integers(0, 255, [2, 13, 4, 84, 84]).astype(np.uint8)
    together, alone = student_policy(student)(weights, masks), network_policy(plain)
    expected = np.asarray(student(weights, masks, frames))
    for count in (13, 12, 7, 6, 3, 1, 13):
        np.testing.assert_allclose(together(frames[:, :count]), expected[:, :count], rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(alone(frames[1:, :count])[0], expected[1, :count], rtol=1e-3, atol=1e-4)


OTHERS = {"padding": "same"}, {"activation": lambda x: x**2}, {"use_bias": False}, {"dilation_rate": 2, "strides": 1}


def frames_network(**changes):
    convolution = keras.layers.Conv2D(3, 4, **{"strides": 2, "activation": "relu"} | changes)
    last = [keras.layers.Flatten(), keras.layers.Dense(2, "tanh")]
    network = keras.Sequential([keras.Input([12, 10, 2]), keras.layers.Rescaling(0.1, -1), convolution, *last])
    generator = np.random.default_rng(0)
    network.set_weights([generator.normal(0, 0.3, weight.shape) for weight in network.weights])
    return network


@pytest.mark.parametrize("frames", [FRAMES, np.abs(FRAMES).astype(np.uint8)], ids=lambda frames: str(frames.dtype))
def test_a_stack_with_convolutions_gives_in_onnx_runtime_what_it_gives_in_keras(frames):
    whole = frames_network()
    for network in (whole, keras.Sequential([keras.Input([12, 10, 2]), *whole.layers[1:]])):
        assert in_onnx(network)
        np.testing.assert_allclose(network_policy(network)(frames)[0], network(frames[0]), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("changes", OTHERS, ids=lambda changes: next(iter(changes)))
def test_other_convolutions_are_left_to_keras(changes):
    network = frames_network(**changes)
    assert in_onnx(network) is None
    np.testing.assert_allclose(network_policy(network)(FRAMES)[0], network(FRAMES[0]), rtol=1e-4, atol=1e-5)
