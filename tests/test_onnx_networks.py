"""ONNX files as teachers: as layers where they are a plain stack, else as functions; ONNX Runtime is the reference."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_compress import IMITATED

from pops.compress import compress
from pops.deploy.onnx import write_onnx
from pops.model import agents_of
from pops.policies.functions import TeacherFunction
from pops.policies.teacher import load_teacher
from pops.support.environments import configuration_of
from pops.support.errors import ConfigurationError

from conftest import command, refused

SETTINGS = {name: configuration_of(name)["model"] for name in ("CartPole-v1", "Pendulum-v1")}


def node(kind, *inputs, **attributes):
    """A node whose data input, "x", is filled in by `model`; other inputs are arrays."""
    return kind, inputs, attributes


def gemm(inputs, outputs, seed=0, **attributes):
    generator = np.random.default_rng(seed)
    kernel = generator.normal(size=(inputs, outputs)).astype(np.float32)
    return node("Gemm", "x", kernel, generator.normal(size=outputs).astype(np.float32), **attributes)


def model(path, nodes, observation=(4,), batch="batch", dtype=TensorProto.FLOAT, outputs=None, opset=17):
    """Writes a chain of nodes as an ONNX file.

    Args:
        outputs: {name: index of the node that gives it}; the last one's if left out.
    """
    made, constants, present, names = [], [], "x0", []
    for number, (kind, inputs, attributes) in enumerate(nodes):
        given = []
        for place, value in enumerate(inputs):
            if isinstance(value, str):
                given.append(present if value == "x" else value and names[int(value)])
            else:
                constants.append(numpy_helper.from_array(np.asarray(value), f"c{number}_{place}"))
                given.append(constants[-1].name)
        present = f"x{number + 1}"
        names.append(present)
        made.append(helper.make_node(kind, given, [present], **attributes))
    outputs = {present: len(nodes) - 1} if outputs is None else outputs
    made += [helper.make_node("Identity", [names[index]], [name]) for name, index in outputs.items() if name != present]
    given = helper.make_tensor_value_info("x0", dtype, [batch, *observation])
    results = [helper.make_empty_tensor_value_info(name) for name in outputs]
    graph = helper.make_graph(made, "policy", [given], results, constants)
    # ONNX Runtime wants outputs with types, which the checker fills in.
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.save(onnx.shape_inference.infer_shapes(made), path)
    return path


def reference(path, observations, output=None):
    """What ONNX Runtime gives."""
    session = onnxruntime.InferenceSession(str(path))
    return session.run(output and [output], {session.get_inputs()[0].name: observations})[0]


def observations(*shape, scale=1.0):
    return (scale * np.random.default_rng(5).normal(size=(40, *shape))).astype(np.float32)


HIDDEN = [gemm(4, 6), node("Relu", "x"), gemm(6, 2, 1)]
ONE, TWO = np.float32([1, 2, 3, 4]), np.float32([2, 4, 0.5, 1])
NORM = [np.float32(values) for values in ([1, 2, 1, 3, 1, 1], [0, 1, 0, 0, -1, 0], [0.5] * 6, [1, 2, 3, 4, 5, 6])]
STACKS = {
    "plain": HIDDEN,
    "MatMul and Add": [
        node("MatMul", "x", np.eye(4, 6, dtype=np.float32)),
        node("Add", "x", np.ones(6, np.float32)),
        *HIDDEN[1:],
    ],
    "transposed": [
        node("Gemm", "x", np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32), transB=1, alpha=0.5),
        *HIDDEN[1:],
    ],
    "normalised": [node("Sub", "x", ONE), node("Div", "x", TWO), *HIDDEN],
    "mirrored": [node("Sub", ONE, "x"), node("Mul", TWO, "x"), *HIDDEN],
    "scaled outputs": [*HIDDEN, node("Mul", "x", np.float32(3)), node("Add", "x", np.float32([1, 2]))],
    "batch normalisation": [HIDDEN[0], node("BatchNormalization", "x", *NORM), *HIDDEN[1:]],
    "batch normalisation after": [*HIDDEN[:2], node("BatchNormalization", "x", *NORM), HIDDEN[2]],
    "without activation": [gemm(4, 6), gemm(6, 6, 2), node("Tanh", "x"), gemm(6, 2, 1)],
    "what does nothing": [node("Identity", "x"), HIDDEN[0], node("Dropout", "x"), *HIDDEN[1:], node("Cast", "x", to=1)],
    "leaky": [HIDDEN[0], node("LeakyRelu", "x", alpha=0.01), HIDDEN[2]],
    "silu": [HIDDEN[0], node("Sigmoid", "x"), node("Mul", "0", "x"), HIDDEN[2]],
    "relu6": [HIDDEN[0], node("Clip", "x", np.float32(0), np.float32(6)), HIDDEN[2]],
    "clipped": [HIDDEN[0], node("Clip", "x", np.float32(-2), np.float32(3)), HIDDEN[2]],
    "in another order": [
        *HIDDEN[:2],
        node("Reshape", "x", np.array([-1, 2, 3])),
        node("Transpose", "x", perm=[0, 2, 1]),
        node("Mul", "x", np.float32([[1, 2], [3, 4], [5, 6]])),
        node("Flatten", "x"),
        HIDDEN[2],
    ],
    "linear": [gemm(4, 2)],
    "clipped to bounds in arrays": [HIDDEN[0], node("Clip", "x", np.float32([-2]), np.float32([3])), HIDDEN[2]],
    "reshaped": [node("Reshape", "x", np.array([-1, 4])), *HIDDEN],
}


@pytest.mark.parametrize("name", STACKS)
def test_plain_stacks_give_onnx_runtimes_outputs(name, tmp_path):
    path = model(tmp_path / "a.onnx", STACKS[name])
    agent = load_teacher(path, "CartPole-v1", SETTINGS["CartPole-v1"])
    assert not isinstance(agent, TeacherFunction) and agent.widths == (() if name == "linear" else (6,))
    for scale in (1, 50):
        inputs = observations(4, scale=scale)
        np.testing.assert_allclose(agent.network(inputs), reference(path, inputs), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ending", ["Softmax", "LogSoftmax", "ArgMax"])
def test_what_only_chooses_the_action_is_left_out(ending, tmp_path):
    layers = [gemm(4, 6), node("Relu", "x"), gemm(6, 2, 1)]
    attributes = {"axis": 1, "keepdims": 0} if ending == "ArgMax" else {"axis": -1}
    path = model(tmp_path / "a.onnx", [*layers, node(ending, "x", **attributes)])
    agent = load_teacher(path, "CartPole-v1", SETTINGS["CartPole-v1"])
    values = reference(model(tmp_path / "b.onnx", layers), observations(4))
    np.testing.assert_allclose(agent.network(observations(4)), values, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("opset", [17, 20])  # with the axes as an attribute, and as an input
def test_the_arithmetic_of_stable_baselines3s_own_export_is_left_out(opset, tmp_path):
    """Its deterministic action is argmax(softmax(x − log Σ exp x)), beside a value."""
    sums = node("ReduceLogSumExp", "x", axes=[-1]) if opset == 17 else node("ReduceLogSumExp", "x", np.array([-1]))
    chosen = [sums, node("Sub", "2", "x"), node("Softmax", "x", axis=-1)]
    chosen += [node("ArgMax", "x", axis=1, keepdims=0), node("Cast", "x", to=7)]
    nodes = [*HIDDEN, *chosen, node("MatMul", "1", np.ones((6, 1), np.float32))]
    path = model(tmp_path / "a.onnx", nodes, outputs={"action": 7, "value": 8}, opset=opset)
    agent = load_teacher(path, "CartPole-v1", SETTINGS["CartPole-v1"])
    values = reference(model(tmp_path / "b.onnx", HIDDEN), observations(4))
    np.testing.assert_allclose(agent.network(observations(4)), values, rtol=1e-4, atol=1e-4)


def test_continuous_actions_keep_their_tanh_and_scale(tmp_path):
    nodes = [gemm(3, 6), node("Tanh", "x"), gemm(6, 1, 1), node("Tanh", "x")]
    nodes += [node("Mul", "x", np.float32(1.5)), node("Add", "x", np.float32(0.25))]
    path = model(tmp_path / "a.onnx", nodes, (3,))
    agent = load_teacher(path, "Pendulum-v1", SETTINGS["Pendulum-v1"])
    assert agent.settings["squash"] == {"clip": None, "scale": [1.5], "offset": [0.25]}
    np.testing.assert_allclose(agent.played(observations(3)), reference(path, observations(3)), atol=1e-5)


def test_a_clip_before_tanh_is_kept_and_one_to_the_bounds_behind_it_left_out(tmp_path):
    nodes = [gemm(3, 6), node("Relu", "x"), gemm(6, 1, 1), node("Clip", "x", np.float32(-0.5), np.float32(0.5))]
    nodes += [node("Tanh", "x"), node("Mul", "x", np.float32(3)), node("Clip", "x", np.float32(-2), np.float32(2))]
    path = model(tmp_path / "a.onnx", nodes, (3,))
    agent = load_teacher(path, "Pendulum-v1", SETTINGS["Pendulum-v1"])
    assert agent.settings["squash"] == {"clip": 0.5, "scale": [3.0], "offset": [0.0]}
    actions = np.clip(agent.played(observations(3)), -2, 2)
    np.testing.assert_allclose(actions, reference(path, observations(3)), rtol=1e-5)


def test_clipping_to_the_bounds_is_left_to_the_evaluations(tmp_path):
    layers = [gemm(3, 6), node("Relu", "x"), gemm(6, 1, 1)]
    path = model(tmp_path / "a.onnx", [*layers, node("Clip", "x", np.float32(-2), np.float32(2))], (3,))
    agent = load_teacher(path, "Pendulum-v1", SETTINGS["Pendulum-v1"])
    expected = reference(path, observations(3))
    np.testing.assert_allclose(np.clip(agent.played(observations(3)), -2, 2), expected, rtol=1e-4, atol=1e-5)
    narrow = model(tmp_path / "b.onnx", [*layers, node("Clip", "x", np.float32(-0.5), np.float32(0.5))], (3,))
    function = load_teacher(narrow, "Pendulum-v1", SETTINGS["Pendulum-v1"])
    np.testing.assert_allclose(function(observations(3)), reference(narrow, observations(3)), rtol=1e-5)


@pytest.mark.parametrize("last", [False, True])
def test_convolutions_see_the_frames_that_the_file_takes(last, tmp_path):
    """Channels first, as PyTorch exports, and last, as tf2onnx does, with 0 to 255 or 0 to 1 inside the network."""
    generator = np.random.default_rng(0)

    def convolution(inputs, outputs, size, stride):
        kernel = (generator.normal(size=(outputs, inputs, size, size)) / 10).astype(np.float32)
        return node("Conv", "x", kernel, generator.normal(size=outputs).astype(np.float32), strides=[stride, stride])

    nodes = [node("Transpose", "x", perm=[0, 3, 1, 2])] if last else []
    nodes += [node("Div", "x", np.float32(255)), convolution(4, 5, 8, 4), node("Relu", "x")]
    nodes += [convolution(5, 6, 4, 2), node("Relu", "x"), convolution(6, 7, 3, 1), node("Relu", "x")]
    nodes += [node("Transpose", "x", perm=[0, 2, 3, 1])] if last else []
    nodes += [node("Flatten", "x"), gemm(7 * 49, 8, 3), node("Relu", "x"), gemm(8, 3, 4)]
    path = model(tmp_path / "a.onnx", nodes, (84, 84, 4) if last else (4, 84, 84))
    settings = configuration_of("pong")["model"]
    agent = load_teacher(path, "pong", settings)
    assert agent.widths == (5, 6, 7, 8)
    frames = generator.integers(0, 256, (3, 4, 84, 84), dtype=np.uint8)
    seen = (np.moveaxis(frames, 1, -1) if last else frames).astype(np.float32)
    expected = reference(path, seen)
    np.testing.assert_allclose(agent.network(frames), expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())


ENTROPY = [gemm(4, 6), node("Softmax", "x", axis=1), gemm(6, 2, 1)]
FUNCTIONS = {
    "first: LayerNormalization": [HIDDEN[0], node("LayerNormalization", "x", np.ones(6, np.float32)), *HIDDEN[1:]],
    "first: a branch at Gemm": [HIDDEN[0], node("Relu", "x"), gemm(6, 6, 2), node("Add", "1", "x"), HIDDEN[2]],
    "its hidden layers have different activations": [
        HIDDEN[0],
        node("Relu", "x"),
        gemm(6, 6, 2),
        node("Tanh", "x"),
        HIDDEN[2],
    ],
    "first: relu after the last layer": [*HIDDEN, node("Relu", "x")],
    "first: LeakyRelu with alpha=0.2": [HIDDEN[0], node("LeakyRelu", "x", alpha=0.2), HIDDEN[2]],
    "first: Clip of the observations": [node("Clip", "x", np.float32(-10), np.float32(10)), *HIDDEN],
    "first: a dense layer after softmax": ENTROPY,
}


@pytest.mark.parametrize("words", FUNCTIONS)
def test_others_are_functions_that_give_onnx_runtimes_outputs(words, tmp_path):
    path = model(tmp_path / "a.onnx", FUNCTIONS[words])
    function = load_teacher(path, "CartPole-v1", SETTINGS["CartPole-v1"])
    assert isinstance(function, TeacherFunction) and words in function.why, function.why
    assert function.why.startswith(f"{path} is no plain stack of layers (")
    np.testing.assert_allclose(function(observations(4)), reference(path, observations(4)), rtol=1e-5, atol=1e-6)


def test_a_function_with_a_batch_of_one_is_called_for_each_observation(tmp_path):
    nodes = FUNCTIONS["first: LayerNormalization"]
    fixed, free = model(tmp_path / "a.onnx", nodes, batch=1), model(tmp_path / "b.onnx", nodes)
    function = load_teacher(fixed, "CartPole-v1", SETTINGS["CartPole-v1"])
    assert "one observation at a time" in function.why
    np.testing.assert_allclose(function(observations(4)), reference(free, observations(4)), rtol=1e-5)
    with pytest.raises(ConfigurationError, match="takes 8 observations at once; export it with a dynamic batch axis"):
        load_teacher(model(tmp_path / "c.onnx", nodes, batch=8), "CartPole-v1", SETTINGS["CartPole-v1"])


def test_actions_as_integers_and_probabilities_become_values(tmp_path):
    nodes = FUNCTIONS["first: LayerNormalization"]
    values = reference(model(tmp_path / "v.onnx", nodes), observations(4))
    path = model(tmp_path / "a.onnx", [*nodes, node("ArgMax", "x", axis=1, keepdims=0)])
    function = load_teacher(path, "CartPole-v1", SETTINGS["CartPole-v1"])
    assert "its integer actions become one-hot values" in function.why
    np.testing.assert_array_equal(function(observations(4)), np.eye(2)[values.argmax(1)])
    path = model(tmp_path / "b.onnx", [*nodes, node("Softmax", "x", axis=1)])
    function = load_teacher(path, "CartPole-v1", SETTINGS["CartPole-v1"])
    assert "its probabilities become their logarithms" in function.why
    differences = np.diff(function(observations(4)), axis=1)
    np.testing.assert_allclose(differences, np.diff(values, axis=1), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("dtype", [TensorProto.DOUBLE, TensorProto.UINT8])
def test_observations_are_cast_to_what_the_file_takes(dtype, tmp_path):
    path = model(tmp_path / "a.onnx", [node("Cast", "x", to=1), *FUNCTIONS["first: LayerNormalization"]], dtype=dtype)
    function = load_teacher(path, "CartPole-v1", SETTINGS["CartPole-v1"])
    whole = np.abs(observations(4, scale=20)).round()
    cast = whole.astype(np.float64 if dtype == TensorProto.DOUBLE else np.uint8)
    np.testing.assert_allclose(function(whole), reference(path, cast), rtol=1e-5)


def test_of_several_outputs_the_one_of_the_right_shape_is_taken(tmp_path):
    value = node("MatMul", "1", np.ones((6, 1), np.float32))
    path = model(tmp_path / "a.onnx", [*HIDDEN, value], outputs={"logits": 2, "value": 3})
    agent = load_teacher(path, "CartPole-v1", SETTINGS["CartPole-v1"])
    np.testing.assert_allclose(
        agent.network(observations(4)), reference(path, observations(4), "logits"), rtol=1e-4, atol=1e-4
    )
    twice = model(tmp_path / "b.onnx", [*HIDDEN, gemm(2, 2, 7)], outputs={"first": 2, "second": 3})
    with pytest.raises(ConfigurationError, match=r"2 of its outputs could be .*first \(batch, 2\), second \(batch, 2\)"):
        load_teacher(twice, "CartPole-v1", SETTINGS["CartPole-v1"])


@pytest.mark.parametrize(
    ("nodes", "changes", "words"),
    [
        ([gemm(6, 2)], {"observation": (6,)}, r"takes observations of shape \(6,\), those of the environment have \(4,\)"),
        ([node("ReduceSum", "x", np.array([0]))], {}, r"none of its outputs could be the actions' values: x1 \(1, 4\);"),
        ([*HIDDEN, node("Softmax", "x", axis=0)], {}, "gives other outputs for the same observations in another call"),
        ([node("RandomNormalLike", "x"), *HIDDEN], {}, "gives other outputs for the same observations in another call"),
        ([gemm(4, 3)], {}, r"CartPole-v1 takes \(4,\) and needs one output \(batch, 2\); none .*\(batch, 3\)"),
    ],
)
def test_files_for_other_shapes_are_refused_with_both(nodes, changes, words, tmp_path):
    path = model(tmp_path / "a.onnx", nodes, **changes)
    with pytest.raises(ConfigurationError, match=words):
        load_teacher(path, "CartPole-v1", SETTINGS["CartPole-v1"])


def test_a_sparse_constant_is_run_and_not_read(tmp_path):
    values, places = numpy_helper.from_array(np.float32([2, 3]), "v"), numpy_helper.from_array(np.array([0, 3]), "p")
    path = model(tmp_path / "a.onnx", HIDDEN)
    file = onnx.load(path)
    sparse = helper.make_node("Constant", [], ["s"], sparse_value=helper.make_sparse_tensor(values, places, [4]))
    file.graph.node[0].input[0] = "scaled"
    for place, made in enumerate((sparse, helper.make_node("Mul", ["x0", "s"], ["scaled"]))):
        file.graph.node.insert(place, made)
    onnx.save(file, path)
    function = load_teacher(path, "CartPole-v1", SETTINGS["CartPole-v1"])
    np.testing.assert_allclose(function(observations(4)), reference(path, observations(4)), rtol=1e-5, atol=1e-6)


def test_a_damaged_file_is_named(tmp_path):
    path = model(tmp_path / "a.onnx", HIDDEN)
    (tmp_path / "b.onnx").write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ConfigurationError, match=r"b\.onnx: cannot be read as ONNX \("):
        load_teacher(tmp_path / "b.onnx", "CartPole-v1", SETTINGS["CartPole-v1"])


def test_what_pops_exports_it_reads_again(tmp_path):
    agent = agents_of("CartPole-v1").teacher(SETTINGS["CartPole-v1"] | {"widths": [5, 4]})
    agent.network.set_weights(agent.initial_weights(np.random.default_rng(0), 0.1))
    agent.network(observations(4))
    write_onnx(agent.network, tmp_path / "a.onnx")
    again = load_teacher(tmp_path / "a.onnx", "CartPole-v1", SETTINGS["CartPole-v1"])
    for one, other in zip(agent.network.get_weights(), again.network.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6)


# A rule for CartPole behind a layer that is not plain: sinh(x) is close to x there.
LEAN = np.float32([[0, 0], [0, 0], [-1, 1], [-1, 1]])
RULE = [node("Sinh", "x"), node("MatMul", "x", LEAN)]


@pytest.mark.slow
def test_a_function_of_onnx_is_compressed_and_resumed(tmp_path, capsys):
    path = model(tmp_path / "rule.onnx", RULE)
    summary = compress(path, "CartPole-v1", tmp_path / "run", settings=IMITATED)
    assert f"{path} is no plain stack of layers (first: Sinh): taken as a function, which a network of 16" in " ".join(
        capsys.readouterr().out.split()
    )
    assert summary["teacher"]["weights"] == 4 * 16 + 16 * 2 and summary["teacher"]["reward_mean"] > 60
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["teacher"] == str(path) and len(config["teacher_sha256"]) == 64
    assert compress(path, "CartPole-v1", tmp_path / "run", settings=IMITATED, resume=True) == summary


def test_commands_take_onnx_files(tmp_path):
    path = model(tmp_path / "rule.onnx", RULE)
    result = command("evaluate.py", path, "--env", "CartPole-v1", "--episodes", 5, "--greedy")
    assert result.returncode == 0 and "reward 500.00" in result.stdout, result.stderr
    assert "played as a function: " in result.stdout and "first: Sinh" in result.stdout
    result = command("export.py", path, "--env", "CartPole-v1", "--format", "c", "--out", tmp_path / "a.h")
    refused(
        result, "first: Sinh", "so it has no layers to write; compress it first (pops.py --env-id CartPole-v1 --teacher"
    )
    plain = model(tmp_path / "plain.onnx", HIDDEN)
    result = command("evaluate.py", plain, "--env", "CartPole-v1", "--episodes", 5, "--json")
    assert result.returncode == 0 and json.loads(result.stdout)["weights"] == 4 * 6 + 6 * 2, result.stderr
    refused(command("evaluate.py", plain), "does not name its environment; give it with --env")


@pytest.mark.parametrize("shape", [[4], [1, 4], None])
def test_inputs_of_any_batch(tmp_path, shape):
    """A file may take one observation without a batch axis, one with it, or not say what it takes."""
    kernel = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    nodes = [helper.make_node("MatMul", ["x", "kernel"], ["y"])]
    if shape == [1, 4]:  # and gives the values without it
        nodes = [helper.make_node("MatMul", ["x", "kernel"], ["z"]), helper.make_node("Squeeze", ["z"], ["y"])]
    given = helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)
    graph = helper.make_graph(
        nodes,
        "policy",
        [given],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "a.onnx")
    teacher = load_teacher(tmp_path / "a.onnx", "CartPole-v1", SETTINGS["CartPole-v1"])
    seen = np.random.default_rng(1).normal(size=(7, 4)).astype(np.float32)
    assert np.abs(np.asarray(teacher.played(seen)) - seen @ kernel).max() < 1e-5
