"""Keras networks as teachers: what folds gives the network's outputs, all else is a function, and what is no policy is
refused."""

import json
import shutil
import zipfile

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from pops.compress import compress
from pops.configs import configuration
from pops.model import DQNAgent
from pops.policies import keras_network
from pops.policies.functions import TeacherFunction
from pops.policies.teacher import load_teacher, read_policy
from pops.support.environments import configuration_of
from pops.support.errors import ConfigurationError
from pops.support.networks import read_network

from conftest import ROOT, TINY, command, refused

CARTPOLE, PENDULUM = (configuration_of(name)["model"] for name in ("CartPole-v1", "Pendulum-v1"))
PONG = configuration("pong")["model"]
IMAGES = np.random.default_rng(1).integers(256, size=(5, 4, 84, 84), dtype=np.uint8)


def filled(network, seed=0):
    """The network with weights and moving statistics that all matter."""
    generator = np.random.default_rng(seed)
    for weight in network.weights:
        if weight.dtype == "float32":
            values = generator.normal(size=weight.shape) / np.sqrt(np.prod(weight.shape[:-1]))
            weight.assign(np.abs(values) + 0.3 if "variance" in weight.name else values)
    return network


def stack(inputs, *others):
    return filled(keras.Sequential([keras.Input(inputs), *others]))


def functional(inputs, build, dtype="float32"):
    tensor = keras.Input(inputs, dtype=dtype)
    return filled(keras.Model(tensor, build(tensor)))


def observations(width, scale=1.0):
    return (np.random.default_rng(2).normal(size=(50, width)) * scale).astype(np.float32)


def check_same(agent, expected, inputs):
    assert isinstance(agent, DQNAgent), agent.why
    outputs = np.asarray(agent.network(inputs))
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())


# What folds


def elements(generator):
    """A random chain of layers from 4 numbers to 2, none of which is more than a stack."""
    activation = generator.choice(["relu", "tanh", "elu", "sigmoid", "gelu", "silu"])
    size = {"size": 4}

    def maps():
        """Layers without activations, which may stand anywhere."""
        pick = generator.integers(6)
        vector = generator.uniform(0.5, 2, size["size"]).tolist()
        return (
            [],
            [layers.Rescaling(vector, vector[::-1])],
            [layers.BatchNormalization(scale=bool(generator.integers(2)), center=bool(generator.integers(2)))],
            [layers.Normalization(mean=vector[::-1], variance=vector, invert=bool(generator.integers(2)))],
            [layers.Reshape((2, size["size"] // 2)), layers.Permute((2, 1)), layers.Flatten()],
            [layers.Dropout(0.5), layers.GaussianNoise(1.0), layers.Identity(), layers.Activation("linear")],
        )[pick]

    chain = [*maps(), *maps()]
    for _ in range(generator.integers(3)):
        size["size"] = int(2 * generator.integers(1, 5))
        dense = layers.Dense(size["size"], use_bias=bool(generator.integers(2)))
        separate = [layers.Activation(activation)] if activation != "relu" or generator.integers(2) else [layers.ReLU()]
        chain += [dense, *maps(), *separate, *maps()]
    # Reordered outputs do not fold, so only maps of each number follow the last layer.
    return [*chain, layers.Dense(2), layers.BatchNormalization(), layers.Rescaling(2.0, 1.0)]


@pytest.mark.parametrize("seed", range(25))
def test_random_chains_give_the_networks_outputs(seed):
    chain = elements(np.random.default_rng(seed))
    half = len(chain) // 2
    network = filled(keras.Sequential([keras.Input([4]), keras.Sequential(chain[:half]), *chain[half:]]), seed)
    agent = load_teacher(network, "CartPole-v1", CARTPOLE)
    dense = [layer for layer in chain if isinstance(layer, layers.Dense)]
    check_same(agent, network(observations(4)), observations(4))
    assert list(agent.widths) == [layer.units for layer in dense[:-1]]


@pytest.mark.parametrize("name", ["cartpole", "lunarlander", "pong", "pacman"])
def test_this_projects_files_keep_their_weights_to_the_bit(name):
    path = ROOT / "saved_models" / name / "teacher.keras"
    agent = load_teacher(path, name, configuration(name)["model"])
    for array, saved in zip(agent.network.get_weights(), read_network(path).get_weights(), strict=True):
        assert array.tobytes() == saved.tobytes()


def nature(*first, bias=True, middle=lambda: (), outputs=3):
    convolutions = [layers.Conv2D(n, s, d, "valid", use_bias=bias) for n, s, d in ((6, 8, 4), (5, 4, 2), (7, 3, 1))]
    relu = [layer for convolution in convolutions for layer in (convolution, *middle(), layers.ReLU())]
    return [*first, *relu, layers.Flatten(), layers.Dense(9, "relu"), layers.Dense(outputs)]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("last", [True, False])
def test_a_dqn_of_pong_that_divides_by_255_becomes_the_agents_network(last, bias):
    first = [layers.Rescaling(1 / 255)] if last else [layers.Rescaling(1 / 255), layers.Permute((2, 3, 1))]
    network = stack((84, 84, 4) if last else (4, 84, 84), *nature(*first, bias=bias))
    agent = load_teacher(network, "pong", PONG)
    check_same(agent, network(IMAGES.transpose(0, 2, 3, 1) if last else IMAGES), IMAGES)
    assert agent.widths == (6, 5, 7, 9) and agent.network.inputs[0].dtype == "uint8"


def test_a_network_of_small_outputs_without_biases_is_folded():
    """As Keras initialises it: for black frames it gives 0, beside which every rounding error is large."""
    network = keras.Sequential([keras.Input((84, 84, 4)), *nature(layers.Rescaling(1 / 255))])
    check_same(load_teacher(network, "pong", PONG), network(IMAGES.transpose(0, 2, 3, 1)), IMAGES)


def test_arithmetic_on_tensors_is_folded_too():
    network = functional([4], lambda x: layers.Dense(2)(layers.Dense(5, "relu")(2 * (1 - (x - 0.5) / 255) + x[0, 0] * 0)))
    assert isinstance(load_teacher(network, "CartPole-v1", CARTPOLE), TeacherFunction)  # one observation sees another
    network = functional([4], lambda x: layers.Dense(2)(layers.Dense(5, "relu")(2 * (1 - (x - 0.5) / 255))))
    check_same(load_teacher(network, "CartPole-v1", CARTPOLE), network(observations(4)), observations(4))
    network = functional([4], lambda x: layers.Dense(2)(layers.Dense(5, "relu")(1 / (x + 10))))
    assert isinstance(load_teacher(network, "CartPole-v1", CARTPOLE), TeacherFunction)


def test_batch_normalisation_of_frames_and_channels_is_folded():
    network = stack((84, 84, 4), layers.BatchNormalization(), *nature(middle=lambda: [layers.BatchNormalization()]))
    network.layers[0].moving_mean.assign([90, 60, 120, 30])
    network.layers[0].moving_variance.assign([2000, 3000, 1000, 4000])
    check_same(load_teacher(network, "pong", PONG), network(IMAGES.transpose(0, 2, 3, 1)), IMAGES)


def test_flattening_joins_axes_in_the_networks_order():
    """Behind a Permute, the dense layer sees the channels first."""
    chain = nature(layers.Rescaling(1 / 255))
    chain.insert(7, layers.Permute((3, 1, 2)))
    network = stack((84, 84, 4), *chain)
    assert isinstance(chain[8], layers.Flatten)
    check_same(load_teacher(network, "pong", PONG), network(IMAGES.transpose(0, 2, 3, 1)), IMAGES)


def test_a_network_of_the_environments_own_axes_takes_flat_observations():
    network = stack((2, 2), layers.Permute((2, 1)), layers.Flatten(), layers.Dense(5, "relu"), layers.Dense(2))
    flat = observations(4)
    check_same(load_teacher(network, "CartPole-v1", CARTPOLE), network(flat.reshape(-1, 2, 2)), flat)


def test_a_layer_used_twice_is_two_layers():
    twice = layers.Dense(4, "relu")
    network = functional([4], lambda x: layers.Dense(2)(twice(twice(x))))
    agent = load_teacher(network, "CartPole-v1", CARTPOLE)
    check_same(agent, network(observations(4)), observations(4))
    assert agent.widths == (4, 4)


@pytest.mark.parametrize("end", ["softmax", "log_softmax"])
def test_a_softmax_at_the_end_is_left_to_the_drawing_of_actions(end, tmp_path):
    network = stack([4], layers.Dense(5, "relu"), layers.Dense(2), layers.Activation(end))
    probabilities = np.asarray(tf.nn.softmax(load_teacher(network, "CartPole-v1", CARTPOLE).network(observations(4))))
    expected = np.asarray(network(observations(4)))
    np.testing.assert_allclose(probabilities, np.exp(expected) if end == "log_softmax" else expected, rtol=1e-4)
    network.save(tmp_path / "a.keras")  # and where it plays without being folded
    outputs = read_policy(tmp_path / "a.keras", "CartPole-v1").network(observations(4))
    np.testing.assert_allclose(tf.nn.softmax(outputs), probabilities, rtol=1e-4)


class Softmax(layers.Layer):
    """Of a user's own, without the axis that Keras's has."""

    def call(self, x):
        return keras.ops.softmax(x)


class Actor(keras.Model):
    """Of a user's own class."""

    def __init__(self):
        super().__init__()
        self.layer = layers.Dense(2, "softmax")

    def call(self, x):
        return self.layer(x)


@pytest.mark.parametrize(
    "network",
    [
        lambda: stack([4], layers.Dense(2), Softmax()),
        lambda: stack([4], layers.LayerNormalization(), layers.Dense(2), layers.Softmax(axis=1)),
        lambda: functional([4], lambda x: layers.Lambda(keras.ops.softmax)(layers.Dense(2)(x))),
        Actor,
    ],
)
def test_probabilities_are_undone_wherever_they_come_from(network):
    network = network()
    function = load_teacher(network, "CartPole-v1", CARTPOLE)
    assert isinstance(function, TeacherFunction)
    np.testing.assert_allclose(tf.nn.softmax(function(observations(4))), network(observations(4)), rtol=1e-4)


def test_probabilities_in_float16_stay_finite():
    hidden, last = layers.Dense(5, "relu", dtype="float16"), layers.Dense(2, "softmax", dtype="float16")
    function = load_teacher(functional([4], lambda x: last(hidden(x * 100))), "CartPole-v1", CARTPOLE)
    assert np.isfinite(function(observations(4, 100))).all()


@pytest.mark.parametrize("size", [1, 8])
def test_networks_built_for_some_number_of_observations_take_any(size):
    network = keras.Sequential([layers.Dense(5, "relu"), layers.Dense(2)])
    network(np.zeros((size, 4), np.float32))
    agent = load_teacher(filled(network), "CartPole-v1", CARTPOLE)
    check_same(agent, network(observations(4)), observations(4))


def test_a_softmax_at_the_end_of_a_function_is_undone_too():
    network = stack([4], layers.Dense(5, "relu"), layers.LayerNormalization(), layers.Dense(2, "softmax"))
    function = load_teacher(network, "CartPole-v1", CARTPOLE)
    assert isinstance(function, TeacherFunction)
    np.testing.assert_allclose(tf.nn.softmax(function(observations(4))), network(observations(4)), rtol=1e-4)


def test_tanh_and_a_rescaling_at_the_end_are_the_bounds_of_actions(tmp_path):
    network = stack([3], layers.Dense(5, "relu"), layers.Dense(1, "tanh"), layers.Rescaling(1.5, 0.25))
    agent = load_teacher(network, "Pendulum-v1", PENDULUM)
    check_same(agent, network(observations(3)), observations(3))
    assert agent.settings["squash"] == {"clip": None, "scale": [1.5], "offset": [0.25]}
    agent.settings["squash"]["clip"] = 2.0  # as SAC has it with gSDE; what was written is read again
    clipped = type(agent)(agent.settings, agent.widths)
    clipped.network.set_weights(agent.network.get_weights())
    again = load_teacher(clipped.network, "Pendulum-v1", PENDULUM)
    assert again.settings["squash"] == agent.settings["squash"]
    for array, written in zip(again.network.get_weights(), clipped.network.get_weights(), strict=True):
        assert array.tobytes() == written.tobytes()


def test_dense_layers_without_an_activation_between_are_multiplied():
    network = stack(
        [4], layers.Dense(3), layers.Rescaling(2.0, 1.0), layers.Dense(5, "relu"), layers.Dense(6), layers.Dense(2)
    )
    agent = load_teacher(network, "CartPole-v1", CARTPOLE)
    check_same(agent, network(observations(4)), observations(4))
    assert agent.widths == (5,)


def test_relu_at_the_end_stays():
    network = stack([4], layers.Dense(5, "relu"), layers.Dense(2, "relu"))
    agent = load_teacher(network, "CartPole-v1", CARTPOLE)
    check_same(agent, network(observations(4)), observations(4))
    assert agent.settings["output_activation"] == "relu"


def test_what_cancels_in_float32_is_not_folded():
    """Observations of 1e6 ± 0.1: folded, two numbers of millions would differ by what the network sees."""
    normalise = layers.Normalization(mean=[1e6] * 4, variance=[0.01] * 4)
    function = load_teacher(stack([4], normalise, layers.Dense(5, "relu"), layers.Dense(2)), "CartPole-v1", CARTPOLE)
    assert isinstance(function, TeacherFunction) and "folded, its outputs would differ by" in function.why


@pytest.mark.parametrize("scale", [1.0, np.nan])
def test_a_wrong_folding_is_never_used(scale, monkeypatch):
    monkeypatch.setattr(keras_network, "_affine", lambda *step: (np.float64(scale), np.float64(0)))
    network = stack([4], layers.Rescaling(3.0), layers.Dense(5, "relu"), layers.Dense(2))
    assert isinstance(load_teacher(network, "CartPole-v1", CARTPOLE), TeacherFunction)


# What is a function


def dueling(x):
    hidden = layers.Dense(8, "relu")(x)
    value, advantage = layers.Dense(1)(hidden), layers.Dense(2)(hidden)
    return value + advantage - keras.ops.mean(advantage, axis=-1, keepdims=True)


def residual(x):
    return layers.Dense(2)(layers.Add(name="join")([x, layers.Dense(4, "relu")(x)]))


class Own(keras.Model):
    def __init__(self):
        super().__init__()
        self.dense = layers.Dense(2)

    def call(self, x):
        return self.dense(x) ** 2


@pytest.mark.parametrize(
    ("network", "why"),
    [
        (lambda: functional([4], dueling), "joins branches"),
        (lambda: functional([4], residual), "Add 'join' joins branches"),
        (lambda: stack([4], layers.Dense(5), layers.LayerNormalization(name="ln"), layers.Dense(2)), "LayerNorm.* 'ln'"),
        (lambda: stack([4], layers.Dense(5, "relu"), layers.Dense(5, "tanh"), layers.Dense(2)), "relu and tanh"),
        (lambda: stack([4], layers.Dense(5, "relu"), layers.LeakyReLU(0.3, name="leak"), layers.Dense(2)), "'leak'"),
        (lambda: stack([4], layers.Reshape((1, 4)), layers.LSTM(3, name="lstm"), layers.Dense(2)), "LSTM 'lstm'"),
        (lambda: stack([4], layers.Dense(5, "relu"), layers.Dense(2, "tanh")), "its outputs pass tanh"),
        (Own, "its class Own is none of Keras's own"),
    ],
)
def test_networks_that_are_no_stack_are_functions_of_the_same_outputs(network, why):
    network = network()
    function = load_teacher(network, "CartPole-v1", CARTPOLE)
    assert isinstance(function, TeacherFunction)
    with pytest.raises(AssertionError, match=why):
        raise AssertionError(function.why)
    np.testing.assert_allclose(function(observations(4)), network(observations(4)), rtol=1e-5)


@pytest.mark.parametrize("last", [True, False])
def test_a_function_of_frames_gets_them_as_it_takes_them(last):
    convolution = layers.Conv2D(4, 8, 4, "same", activation="relu")
    first = [layers.Rescaling(1 / 255)] if last else [layers.Permute((2, 3, 1)), layers.Rescaling(1 / 255)]
    network = stack((84, 84, 4) if last else (4, 84, 84), *first, convolution, layers.Flatten(), layers.Dense(3))
    function = load_teacher(network, "pong", PONG)
    assert "padding" in function.why and function.inputs[0].dtype == "uint8"
    expected = network(IMAGES.transpose(0, 2, 3, 1) if last else IMAGES)
    np.testing.assert_allclose(function(IMAGES), expected, rtol=1e-4, atol=1e-5)


# What is refused


def two_outputs(second=2):
    inputs = keras.Input([4])
    return keras.Model(inputs, [layers.Dense(second, name="critic")(inputs), layers.Dense(2, name="actor")(inputs)])


def test_of_an_actor_and_its_critic_the_actor_is_taken(tmp_path):
    network = two_outputs(second=1)
    network.save(tmp_path / "both.keras")
    for given in (network, tmp_path / "both.keras"):
        agent = load_teacher(given, "CartPole-v1", CARTPOLE)
        check_same(agent, network(observations(4))[1], observations(4))
    assert read_policy(tmp_path / "both.keras", "CartPole-v1").network.output_shape == (None, 2)


def named_outputs():
    inputs = keras.Input([4])
    return keras.Model(inputs, {"values": layers.Dense(2)(inputs)})


class Noisy(keras.Model):
    def call(self, x):
        return x[:, :2] + keras.random.normal((2,))


def stateful():
    inputs = keras.Input([4], batch_size=1)
    return keras.Model(inputs, layers.Dense(2)(layers.LSTM(3, stateful=True, name="lstm")(layers.Reshape((1, 4))(inputs))))


@pytest.mark.parametrize(
    ("network", "words"),
    [
        (lambda: stack([3], layers.Dense(2)), r"takes \(None, 3\) and gives \(None, 2\); .* \(None, 4\) and \(None, 2"),
        (lambda: stack([4], layers.Dense(3)), r"takes \(None, 4\) and gives \(None, 3\); .* \(None, 4\) and \(None, 2"),
        (lambda: keras.Sequential([layers.Dense(2)]), "takes None"),
        (two_outputs, r"2 of its outputs.*could be the actions.*keras\.Model\(network\.inputs, network\.outputs\[0\]\)"),
        (named_outputs, r"^the teacher: observations of CartPole-v1 .* \(it gives a dict, not a tensor\)"),
        (Noisy, "gives other outputs for the same observations in another call"),
        (stateful, "LSTM 'lstm' keeps a state from one observation to the next"),
        (lambda: keras.Sequential([keras.Input([4]), layers.Dense(2)], name="cartpole_critic"), "is a critic"),
        (lambda: keras.Sequential([keras.Input([4]), layers.Dense(2)], name="lunarlander_teacher"), "for lunarlander"),
    ],
)
def test_networks_that_are_no_policy_here_are_refused(network, words):
    with pytest.raises(ConfigurationError, match=words):
        load_teacher(network(), "CartPole-v1", CARTPOLE)


@pytest.mark.parametrize("suffix", ["keras", "h5"])
def test_files_that_need_code_say_so_in_one_line(suffix, tmp_path):
    class Doubled(layers.Layer):
        def call(self, x):
            return 2 * x

    for layer, words in ((Doubled(), "needs the Python code of Doubled"), (layers.Lambda(lambda x: x), "a Lambda layer")):
        path = tmp_path / f"a.{suffix}"
        stack([4], layers.Dense(3, "relu"), layer, layers.Dense(2)).save(path)
        with pytest.raises(ConfigurationError, match=rf"a\.{suffix}: .*{words}.*give the network itself") as error:
            load_teacher(path, "CartPole-v1", CARTPOLE)
        assert "\n" not in str(error.value) and "damaged" not in str(error.value)


def test_h5_files_are_read_where_they_hold_the_model(tmp_path):
    network = stack([4], layers.Rescaling(0.5), layers.Dense(5, "relu"), layers.Dense(2))
    network.save(tmp_path / "a.h5")
    check_same(load_teacher(tmp_path / "a.h5", "CartPole-v1", CARTPOLE), network(observations(4)), observations(4))
    network.save_weights(tmp_path / "a.weights.h5")
    shutil.copy(tmp_path / "a.weights.h5", tmp_path / "b.h5")
    for name in ("a.weights.h5", "b.h5"):
        with pytest.raises(ConfigurationError, match="holds weights alone, not how the layers are connected"):
            load_teacher(tmp_path / name, "CartPole-v1", CARTPOLE)
    functional([4], dueling).save(tmp_path / "dueling.h5")
    with pytest.raises(ConfigurationError, match=r"has the operation Mean between its layers, .*; save it as \.keras"):
        load_teacher(tmp_path / "dueling.h5", "CartPole-v1", CARTPOLE)


# The commands


@pytest.mark.slow
def test_commands_take_networks_that_fold_and_functions(tmp_path):
    fold = stack([4], layers.Rescaling(0.5), layers.Dense(5, "relu"), layers.BatchNormalization(), layers.Dense(2))
    fold.save(tmp_path / "fold.keras")
    functional([4], dueling).save(tmp_path / "dueling.keras")
    for name, weights in (("fold.keras", 30), ("dueling.keras", 56)):
        result = command("evaluate.py", tmp_path / name, "--env", "CartPole-v1", "--episodes", 5, "--json")
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout)["weights"] == weights

    def export(name):
        out = tmp_path / "policy.h"
        return command(
            *("export.py", tmp_path / name, "--env", "CartPole-v1", "--format", "c", "--out", out, "--episodes", 3)
        )

    result = export("fold.keras")
    assert result.returncode == 0 and "0 different" in result.stdout, result.stderr
    refused(export("dueling.keras"), "joins branches", "compress it first (pops.py --env-id CartPole-v1 --teacher")


TINY_ANY = [setting for setting in TINY if not setting.startswith("evaluation.report")] + [
    *("evaluation.choose_episodes=20", "evaluation.report_episodes=20", "replay.student_states=100"),
    *("distill.until=objective", "model.widths=[16]", "pops.steps=1"),
]


def test_a_dueling_network_is_imitated_and_compressed(tmp_path, capsys):
    network = functional([4], dueling)
    network.save(tmp_path / "dueling.keras")
    summary = compress(tmp_path / "dueling.keras", "CartPole-v1", tmp_path / "run", settings=TINY_ANY)
    text = " ".join(capsys.readouterr().out.split())
    assert "joins branches): taken as a function, which a network of 16 learns to imitate first" in text
    assert list(summary["teacher"]["widths"]) == [16] and summary["final"]["weights"] <= 96
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["teacher"].endswith("dueling.keras") and config["teacher_sha256"]


def of_keras_2(path, network):
    """A file as Keras 2 marks it."""
    network.save(path)
    if path.suffix == ".h5":
        with h5py.File(path, "r+") as file:
            file.attrs["keras_version"] = "2.15.0"
        return path
    with zipfile.ZipFile(path) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["metadata.json"] = json.dumps({"keras_version": "2.15.0"})
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return path


@pytest.mark.parametrize("suffix", [".keras", ".h5"])
def test_what_keras_2_meant_otherwise_is_refused(tmp_path, suffix):
    sigmoid, relu = (
        keras.Sequential([keras.Input([4]), keras.layers.Dense(3, activation=activation), keras.layers.Dense(2)])
        for activation in ("hard_sigmoid", "relu")
    )
    with pytest.raises(ConfigurationError, match="written by Keras 2, whose hard_sigmoid was another"):
        load_teacher(of_keras_2(tmp_path / f"a{suffix}", sigmoid), "CartPole-v1", CARTPOLE)
    load_teacher(of_keras_2(tmp_path / f"b{suffix}", relu), "CartPole-v1", CARTPOLE)
    if suffix == ".keras":
        path = of_keras_2(tmp_path / "c.keras", relu)
        path.write_bytes(path.read_bytes().replace(b'"class_name": "Dense"', b'"class_name": "Dance"'))
        with pytest.raises(ConfigurationError, match=r"written by Keras 2, and this is Keras .*; save it there as \.h5"):
            load_teacher(path, "CartPole-v1", CARTPOLE)
