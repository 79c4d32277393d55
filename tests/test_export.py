"""Exported policies: C headers against Keras, LiteRT and ONNX files, the checks, and the command as a user runs it."""

import re
import subprocess

import keras
import numpy as np
import pytest

from pops.configs import configuration
from pops.deploy import c, check, litert, onnx
from pops.deploy.convert import with_actions
from pops.model import AGENTS
from pops.scripts import export
from pops.support.errors import ConfigurationError, RunFailed
from pops.support.networks import read_network, save_network
from pops.support.seeds import Seeds
from pops.support.states import played_observations
from pops.utils import count_weights, kernels

from conftest import ROOT, command, refused

STUDENT = ROOT / "results" / "cartpole" / "seed0" / "student.keras"
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-pedantic", "-Werror")

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:tensorflow.lite.python.interpreter")  # deprecated there
needs_compiler = pytest.mark.skipif(c.c_compiler() is None, reason="there is no C compiler")


def random_network(environment, widths, activation="linear", seed=0):
    """A plain network with random weights and biases, and observations for it."""
    config = configuration(environment)["model"] | {"output_activation": activation}
    network = AGENTS[environment].teacher(config, widths).plain_network("student")
    generator = np.random.default_rng(seed)
    weights = [generator.normal(0, np.sqrt(1 / max(1, w[..., 0].size)), w.shape) for w in network.get_weights()]
    network.set_weights(weights)
    shape = (50, *config["observation_shape"])
    if network.inputs[0].dtype == "uint8":
        return network, generator.integers(0, 256, shape).astype(np.uint8)
    return network, generator.normal(size=shape).astype(np.float32)


NETWORKS = {
    "MLP": ("lunarlander", [16, 7, 5]),
    "one hidden unit": ("cartpole", [1]),
    "ReLU output": ("lunarlander", [16, 16], "relu"),
    "convolutions": ("pong", [2, 3, 5, 7]),
    "convolutions alone": ("pong", [2, 3, 5]),
}


@pytest.fixture(params=NETWORKS)
def case(request):
    return random_network(*NETWORKS[request.param])


def compiled(network, observations, folder, int8=False):
    """Its header, and the header compiled."""
    header = folder / "policy.h"
    header.write_text(c.c_header(network, network.name, "policy", int8))
    return header, c.CompiledPolicy(header, observations, network(observations[:1]).numpy(), c.c_compiler())


def same_outputs(run, network, observations):
    outputs, actions = run(observations)
    expected = network(observations).numpy()
    assert np.abs(expected).max() > 0.05  # that there is something to compare
    np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(actions, outputs.argmax(-1))


# C headers


@needs_compiler
def test_a_header_gives_the_outputs_of_keras(case, tmp_path):
    same_outputs(compiled(*case, tmp_path)[1], *case)


@needs_compiler
def test_an_int8_header_gives_the_outputs_of_keras_with_the_quantised_weights(case, tmp_path):
    network, observations = case
    header, run = compiled(network, observations, tmp_path, int8=True)
    assert "signed char policy_weights_1[" in header.read_text()
    weights = network.get_weights()
    for index in range(0, len(weights), 2):
        kernel = weights[index].reshape(-1, weights[index].shape[-1])
        whole, scale = c.quantised(kernel)
        weights[index] = (whole * scale).reshape(weights[index].shape)
        assert whole.dtype == np.int8 and scale.shape == kernel.shape[1:]
        assert (np.abs(whole).max(axis=0) == 127).all()  # each output has a scale of its own
        assert (np.abs(whole * scale - kernel) <= 0.501 * scale).all()
    before = network(observations).numpy()
    network.set_weights(weights)
    same_outputs(run, network, observations)
    assert np.abs(network(observations).numpy() - before).max() > 1e-4


@needs_compiler
@pytest.mark.parametrize(("widths", "int8"), [([], False), ([16, 7], False), ([], True)])
def test_a_header_leaves_out_the_inputs_that_no_weight_reads(widths, int8, tmp_path):
    network, observations = random_network("lunarlander", widths)
    kernel, *others = network.get_weights()
    kernel[[0, 1, 4, 5, 6]] = 0
    if int8:
        whole, scale = c.quantised(kernel)
        kernel = whole * scale
    network.set_weights([kernel, *others])
    header, run = compiled(network, observations, tmp_path, int8)
    text = header.read_text()
    assert f"policy_weights_1[{3 * kernel.shape[1]}]" in text and "policy_read[3] = {2, 3, 7}" in text
    observations[:, [0, 1, 4, 5, 6]] = np.nan
    outputs, _ = run(observations)
    same_outputs(run, network, np.nan_to_num(observations))
    assert np.isfinite(outputs).all()


def test_outputs_without_any_weight_have_a_scale():
    whole, scale = c.quantised(np.array([[0.0, 1e-38, 2.0], [0.0, 0.0, -4.0]], np.float32))
    assert (whole[:, :2] == 0).all() and np.isfinite(scale).all()
    np.testing.assert_array_equal(whole[:, 2], [64, -127])


@needs_compiler
def test_the_first_of_equal_outputs_is_the_action(tmp_path):
    network, observations = random_network("lunarlander", [2])
    network.set_weights([np.zeros((8, 2)), np.zeros(2), np.zeros((2, 4)), np.array([1, 3, 3, 2])])
    _, run = compiled(network, observations, tmp_path)
    np.testing.assert_array_equal(run(observations)[1], 1)


def test_numbers_in_a_header_read_back_exactly():
    network, _ = random_network("lunarlander", [16, 16])
    generator = np.random.default_rng(0)
    weights = [generator.normal(size=w.shape) * 10.0 ** generator.integers(-44, 38, w.shape) for w in network.get_weights()]
    weights[0].flat[:4] = [0.0, -0.0, 1.0, 1e-45]
    network.set_weights(weights)
    text = c.c_header(network, "title", "name")
    for number, expected in enumerate(network.get_weights()):
        name = f"policy_{('weights', 'biases')[number % 2]}_{number // 2 + 1}"
        found = re.search(rf"static const float {name}\[{expected.size}\] = {{(.*?)}};", text, re.DOTALL)[1]
        constants = [word for word in re.split(r"[\s,]+", found) if word]
        assert all(re.fullmatch(r"-?\d+(\.\d+)?(e[+-]\d+)?f", constant) for constant in constants)
        values = np.array([np.float32(constant[:-1]) for constant in constants])
        assert values.tobytes() == expected.tobytes()


@needs_compiler
@pytest.mark.parametrize("int8", [False, True])
@pytest.mark.parametrize("environment", ["lunarlander", "pong"])
def test_headers_compile_as_c_and_as_cpp_without_warnings(environment, int8, tmp_path):
    network, _ = random_network(environment, [2, 3, 4, 5])
    (tmp_path / "policy.h").write_text(c.c_header(network, "a */ title", "policy", int8))
    function = f"int act(const {'unsigned char' if environment == 'pong' else 'float'} *observation)"
    lines = ['#include "policy.h"'] * 2 + [f"{function};", f"{function} {{ return policy_act(observation); }}", ""]
    (tmp_path / "main.c").write_text("\n".join(lines))
    (tmp_path / "unused.c").write_text('#include "policy.h"\nextern int nothing;\n')
    for language in (["-x", "c", "-std=c99"], ["-x", "c++", "-std=c++11"]):
        for file in ("main.c", "unused.c"):
            arguments = [*c.c_compiler(), *language, "-O2", *WARNINGS, "-c", file, "-o", "main.o"]
            result = subprocess.run(arguments, cwd=tmp_path, capture_output=True, text=True)
            assert result.returncode == 0, result.stderr


def test_weights_that_are_no_numbers_are_refused():
    network, _ = random_network("cartpole", [3])
    weights = network.get_weights()
    weights[2][0, 0] = np.nan
    network.set_weights(weights)
    with pytest.raises(ConfigurationError, match="layer dense_2 has weights that are no finite numbers"):
        c.c_header(network, "title", "name")


@needs_compiler
def test_a_header_that_does_not_compile_fails_in_one_line(tmp_path):
    (tmp_path / "policy.h").write_text("no C\n")
    network, observations = random_network("cartpole", [3])
    with pytest.raises(RunFailed, match=r"^.+ does not compile the header: .*no") as error:
        c.CompiledPolicy(tmp_path / "policy.h", observations, network(observations).numpy(), c.c_compiler())
    assert "\n" not in str(error.value)


# LiteRT and ONNX


@pytest.mark.parametrize("name", ["MLP", "convolutions"])
def test_litert_gives_the_outputs_of_keras_for_batches_of_any_size(name, tmp_path):
    network, observations = random_network(*NETWORKS[name])
    litert.write_litert(network, tmp_path / "policy.tflite")
    run = litert.litert_runtime(tmp_path / "policy.tflite")
    for rows in (50, 3, 50):
        same_outputs(run, network, observations[:rows])


@pytest.mark.parametrize("name", ["MLP", "convolutions"])
def test_int8_litert_is_int8_inside_and_close_to_keras(name, tmp_path):
    import tensorflow as tf

    network, observations = random_network(*NETWORKS[name])
    path = tmp_path / "policy.tflite"
    litert.write_litert(network, path, observations)
    outputs, _ = litert.litert_runtime(path)(observations)
    expected = network(observations).numpy()
    assert 0 < np.abs(outputs - expected).max() < 0.05 * np.abs(expected).max()
    details = tf.lite.Interpreter(str(path)).get_tensor_details()
    tensors = [detail for detail in details if len(detail["shape"]) > 1 and detail["dtype"] == np.int8]
    assert len(tensors) >= 2 * len(kernels(network))  # these, and what comes out of each layer
    litert.write_litert(network, path, observations[:1] * 0)  # observations that do not represent any
    outputs, _ = litert.litert_runtime(path)(observations)
    assert np.abs(outputs - expected).max() > 0.1 * np.abs(expected).max()


def test_int8_litert_sees_frames_in_blocks_with_the_same_outputs(tmp_path):
    import tensorflow as tf

    network, observations = random_network(*NETWORKS["convolutions"])
    changed = litert.on_blocks(network)
    kernel, *others = network.get_weights()
    rounded, scale = c.quantised(kernel.reshape(-1, kernel.shape[-1]))
    np.testing.assert_allclose(
        np.sort(changed.get_weights()[0].ravel()) * 50, np.sort((rounded * scale).ravel()), atol=1e-6
    )
    network.set_weights([(rounded * scale).reshape(kernel.shape), *others])
    same_outputs(lambda rows: with_actions(changed(rows).numpy()), network, observations)
    litert.write_litert(network, tmp_path / "policy.tflite", observations)
    details = tf.lite.Interpreter(str(tmp_path / "policy.tflite")).get_tensor_details()
    assert (84, 21, 4 * 4) in {tuple(detail["shape"][1:]) for detail in details}  # four columns of four frames each


@pytest.mark.parametrize(
    ("change", "permutation"),
    [
        ({"strides": 3}, (2, 3, 1)),
        ({"padding": "same"}, (2, 3, 1)),
        ({"use_bias": False}, (2, 3, 1)),
        ({"groups": 2}, (2, 3, 1)),
        ({}, (3, 2, 1)),
    ],
)
def test_other_first_convolutions_stay_as_they_are(change, permutation):
    layers = keras.layers
    convolution = layers.Conv2D(**{"filters": 2, "kernel_size": 8, "strides": 4} | change)
    network = keras.Sequential(
        [keras.Input((4, 84, 84), dtype="uint8"), layers.Rescaling(1), layers.Permute(permutation), convolution]
    )
    assert litert.on_blocks(network) is network


def test_networks_without_frames_stay_as_they_are():
    network, _ = random_network(*NETWORKS["MLP"])
    assert litert.on_blocks(network) is network


def test_what_cannot_be_converted_fails_in_one_line(tmp_path, capfd):
    layers = [keras.Input((4,)), keras.layers.Dense(3), keras.layers.Activation(keras.ops.arctan), keras.layers.Dense(2)]
    network = keras.Sequential(layers, name="waves")
    with pytest.raises(RunFailed, match=r"^waves: cannot be converted to litert \(.+\)$"):
        litert.write_litert(network, tmp_path / "policy.tflite", np.ones((5, 4), np.float32))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("name", ["MLP", "convolutions"])
def test_onnx_gives_the_outputs_of_keras_for_batches_of_any_size(name, tmp_path):
    for package in onnx.PACKAGES:
        pytest.importorskip(package, reason="pip install -r requirements-export.txt")
    network, observations = random_network(*NETWORKS[name])
    network(observations)  # Keras asks for that
    onnx.write_onnx(network, tmp_path / "policy.onnx")
    run = onnx.onnx_runtime(tmp_path / "policy.onnx")
    for rows in (50, 3):
        same_outputs(run, network, observations[:rows])


def test_a_missing_package_is_named_with_what_to_install(monkeypatch):
    parts = (ROOT / "requirements-export.txt").read_text()
    assert all(re.search(rf"^{name}~=", parts, re.MULTILINE) for name in onnx.PACKAGES)
    monkeypatch.setattr(onnx, "PACKAGES", ("numpy", "no_such_package"))
    with pytest.raises(ConfigurationError) as error:
        export.check_arguments(arguments_of("--format", "onnx", "--out", "policy.onnx"))
    assert (
        str(error.value) == "--format onnx: no_such_package missing; install with: pip install -r requirements-export.txt"
    )
    export.check_arguments(arguments_of("--format", "litert", "--out", "policy.tflite"))  # needs none of them


# The checks


def test_different_actions_fail_but_ties_do_not(capsys):
    expected = np.array([[1, 2, 0], [5, 5.00001, 0], [-9, -7, -8], [1e-9, 0, 5]], np.float32)

    def checked(actions, exact=True):
        run = lambda observations: (expected[observations[:, 0]], np.array(actions)[observations[:, 0]])  # noqa: E731
        check.check_actions(run, np.arange(4)[:, None], expected, exact)
        return capsys.readouterr().out

    assert "actions: 4 of 4 are the Keras model's, 0 ties, 0 different; outputs differ by 0 at most" in checked(
        [1, 1, 1, 2]
    )
    assert "actions: 3 of 4 are the Keras model's, 1 ties, 0 different" in checked([1, 0, 1, 2])
    for actions in ([0, 1, 1, 2], [1, 2, 1, 2], [1, 1, 2, 2]):
        with pytest.raises(RunFailed, match="1 of 4 actions are not the Keras model's"):
            checked(actions)
    capsys.readouterr()
    assert "actions: 2 of 4 (50 %) are the Keras model's, 1 ties, 1 different" in checked([0, 0, 1, 2], exact=False)


def test_every_observation_is_compared_once(monkeypatch):
    monkeypatch.setattr(check, "ROWS", 3)
    seen = []

    def run(observations):
        seen.extend(observations[:, 0])
        return np.zeros((len(observations), 2), np.float32), np.zeros(len(observations), int)

    check.check_actions(run, np.arange(10)[:, None], np.zeros((10, 2), np.float32), exact=True)
    assert seen == list(range(10))


def test_observations_are_those_that_the_policy_meets_with_its_outputs():
    network, config = read_network(STUDENT), configuration("cartpole")
    observations, outputs = played_observations(network, config, Seeds(0), 1000, "check")
    assert observations.shape == (1000, 4) and observations.dtype == np.float32
    np.testing.assert_allclose(outputs, network(observations), atol=1e-5)
    assert len(np.unique(observations, axis=0)) == 1000
    assert np.abs(observations[:, 2]).max() < 0.21 and np.abs(observations[:, 0]).max() > 0.05  # it keeps the pole up
    others, _ = played_observations(network, config, Seeds(0), 1000, "calibrate")
    assert not np.isin(others[:, 0], observations[:, 0]).any()


def test_more_observations_than_fit_into_memory_are_refused():
    network, _ = random_network("pong", [1, 1, 1, 1])
    with pytest.raises(ConfigurationError, match=r"--observations 100000: at most 19,021 of this environment's"):
        played_observations(network, configuration("pong"), Seeds(0), 100_000, "check")


# The command


def arguments_of(*options):
    """What the command's parser makes of these options."""
    parser = export.make_parser()
    return parser.parse_args([str(STUDENT), *options])


@needs_compiler
def test_the_shipped_cartpole_student_as_a_header(tmp_path):
    header = tmp_path / "new" / "cartpole.h"
    result = command("export.py", STUDENT, "--format", "c", "--out", header)
    assert result.returncode == 0, result.stderr
    for line in (
        "cartpole, 6 weights",
        "actions: 1,000 of 1,000 are the Keras model's, 0 ties, 0 different",
        "reward over 100 episodes (greedy): 200.0 ± 0.0, the Keras model's 200.0 ± 0.0; objective 195",
        " ns an action",
    ):
        assert line in result.stdout
    assert header.stat().st_size < 4096 and f"{header.stat().st_size:,} bytes" in result.stdout
    assert list(header.parent.iterdir()) == [header]
    assert header.read_text().startswith("/* cartpole_student: ") and "#ifndef POLICY_CARTPOLE_H" in header.read_text()
    _, run = compiled(read_network(STUDENT), np.zeros((1, 4), np.float32), tmp_path)
    written = c.CompiledPolicy(header, np.zeros(4, np.float32), np.zeros((1, 2)), c.c_compiler())
    observations = np.random.default_rng(0).normal(size=(1000, 4)).astype(np.float32)
    np.testing.assert_array_equal(run(observations)[0], written(observations)[0])


def test_a_policy_below_the_objective_fails_and_an_older_file_stays(tmp_path):
    network, _ = random_network("cartpole", [3])
    save_network(network, tmp_path / "student.keras")
    before = {path.name for path in tmp_path.iterdir()}
    (tmp_path / "policy.tflite").write_text("older")
    result = command("export.py", tmp_path / "student.keras", "--format", "litert", "--out", tmp_path / "policy.tflite")
    assert result.returncode == 1 and result.stderr.count("\n") == 1, result.stderr
    assert "is not above the objective, 195" in result.stderr
    assert "actions: 1,000 of 1,000" in result.stdout
    assert (tmp_path / "policy.tflite").read_text() == "older"
    assert {path.name for path in tmp_path.iterdir()} == {*before, "policy.tflite"}


def test_without_a_compiler_the_header_is_written_but_the_command_fails(tmp_path):
    arguments = [STUDENT, "--format", "c", "--int8", "--out", tmp_path / "policy.h"]
    result = command("export.py", *arguments, env={"CC": "no_such_compiler"})
    assert result.returncode == 1
    assert result.stderr == (
        f"export.py: {tmp_path / 'policy.h'}: written but not checked, as there is no C compiler (cc, gcc, clang or $CC)\n"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["policy.h"]
    assert "signed char" in (tmp_path / "policy.h").read_text()


def test_onnx_from_the_command(tmp_path):
    for package in onnx.PACKAGES:
        pytest.importorskip(package, reason="pip install -r requirements-export.txt")
    result = command("export.py", STUDENT, "--format", "onnx", "--out", tmp_path / "policy.onnx")
    assert result.returncode == 0 and result.stderr == "", result.stderr
    assert "actions: 1,000 of 1,000" in result.stdout and "200.0 ± 0.0" in result.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["policy.onnx"]


@pytest.mark.slow
@needs_compiler
def test_an_atari_games_policy_plays_ten_games(tmp_path):
    network, _ = random_network("pong", [2, 2, 2, 4])
    save_network(network, tmp_path / "student.keras")
    short = ("evaluation.lower_bound=-30", "evaluation.objective=-29", "environment.max_episode_steps=50")
    arguments = [
        tmp_path / "student.keras",
        "--format",
        "c",
        "--out",
        tmp_path / "policy.h",
        *(f"--set={s}" for s in short),
    ]
    result = command("export.py", *arguments)
    assert result.returncode == 0, result.stderr
    assert "reward over 10 episodes (greedy but for 1 % of random actions): " in result.stdout
    assert "actions: 1,000 of 1,000" in result.stdout
    assert "const unsigned char *observation" in (tmp_path / "policy.h").read_text()
    assert count_weights(network)[0] == sum(
        int(size) for size in re.findall(r"float policy_weights_\d\[(\d+)\]", (tmp_path / "policy.h").read_text())
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([STUDENT, "--out", "a.h"], ["--format"]),
        ([STUDENT, "--format", "c"], ["--out"]),
        ([STUDENT, "--format", "java", "--out", "a.java"], ["java", "litert"]),
        ([STUDENT, "--format", "c", "--out", "a.c"], ["--out a.c", "--format c needs a name that ends with .h"]),
        ([STUDENT, "--format", "onnx", "--out", "a.tflite"], ["ends with .onnx"]),
        ([STUDENT, "--format", "onnx", "--int8", "--out", "a.onnx"], ["--int8: for --format litert and c only"]),
        ([STUDENT, "--format", "c", "--out", "a.h", "--observations", "999"], ["999 is not an integer from 1000"]),
        ([STUDENT, "--format", "c", "--out", "a.h", "--env", "mars"], ["mars"]),
        (["nowhere.keras", "--format", "c", "--out", "a.h"], ["nowhere.keras", "No such file"]),
        ([STUDENT, "--format", "c", "--out", "a.h", "--env", "lunarlander"], ["this environment needs (None, 8)"]),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, words, tmp_path):
    refused(command("export.py", *arguments, cwd=tmp_path), *words)
    assert not list(tmp_path.iterdir())
