"""`import_published.py`: checkpoints as the paper's published code writes them become teachers that compute the same."""

import itertools
import json
import shutil
import signal
import sys

import numpy as np
import pytest
import tensorflow as tf

from pops.configs import ENVIRONMENTS, configuration
from pops.policies.teacher import load_teacher
from pops.support.files import check_listed, check_seal

from conftest import command, tiny_pops

tf1 = tf.compat.v1

DENSE = {"cartpole": (4, 16, 12, 8, 2), "lunarlander": (8, 12, 10, 4)}
# Two convolutions of 3 channels; 7 * 7 places of 5 channels.
PONG = {
    "conv_1": (8, 8, 4, 3),
    "conv_2": (4, 4, 3, 3),
    "conv_3": (3, 3, 3, 5),
    "fc_4": (245, 6),
    "logits": (6, 3),
}
NAMES = {"cartpole": ["fc_1", "fc_2", "fc_3", "logits"], "lunarlander": ["fc_1", "fc_2", "logits"], "pong": [*PONG]}


def shapes_of(environment):
    if environment == "pong":
        return dict(PONG)
    return dict(zip(NAMES[environment], itertools.pairwise(DENSE[environment]), strict=True))


def arrays_of(shapes, seed=0, masked=True):
    """{layer: {weights, biases, mask}}, random; two weights of three are masked, though they are not zero."""
    generator = np.random.default_rng(seed)
    layers = {}
    for name, shape in shapes.items():
        layers[name] = {
            "weights": generator.normal(0, 3 / np.sqrt(np.prod(shape[:-1])), shape),
            "biases": generator.normal(0, 0.3, shape[-1:]),
        }
        if masked:
            layers[name]["mask"] = generator.random(shape) < 1 / 3
    return layers


def write_checkpoint(folder, networks, optimizer=None, step=None, name="model.ckpt"):
    """Writes a checkpoint with TensorFlow 1's Saver, as the published code does.

    Args:
        networks: {scope: layers as `arrays_of` returns them}; "" for no scope.
        optimizer: function that makes an optimiser of TensorFlow 1, whose slots lie beside the weights.
        step: number after the file's name.

    Returns:
        The checkpoint's path.
    """
    folder.mkdir(exist_ok=True)
    with tf.Graph().as_default(), tf1.Session() as session:
        counter = tf1.Variable(7, trainable=False, name="global_step", use_resource=False)
        trained = []
        for scope, layers in networks.items():
            for layer, parts in layers.items():
                with tf1.variable_scope(f"{scope}/{layer}" if scope else layer):
                    for part, array in parts.items():
                        variable = tf1.get_variable(
                            part,
                            initializer=np.asarray(array, np.float32),
                            trainable=part in ("weights", "biases"),
                            use_resource=False,
                        )
                        trained += [variable] if variable.trainable else []
                    tf1.get_variable("threshold", initializer=0.0, trainable=False, use_resource=False)
        update = tf.no_op()
        if optimizer:
            loss = tf.add_n([tf.reduce_sum(variable**2) for variable in trained])
            update = optimizer().minimize(loss, global_step=counter)
            average = tf1.train.ExponentialMovingAverage(0.9)
            update = tf.group(update, average.apply(trained))
        session.run(tf1.variables_initializer(trained))  # before the averages, which start from their values
        session.run(tf1.global_variables_initializer())
        before = session.run(trained)
        session.run(update)  # fills the slots
        for variable, value in zip(trained, before, strict=True):
            session.run(variable.assign(value))
        return tf1.train.Saver().save(session, str(folder / name), global_step=step)


def published_outputs(layers, states, scale=256, output=lambda x: x):
    """What the published network computes, in NumPy.

    Args:
        layers: {layer: {weights, biases and maybe mask}}.
        states: [batch, inputs], or frames [batch, height, width, channels].
    """
    values = states.astype(np.float64)
    if values.ndim == 4:
        values = values / scale
    strides = {"conv_1": 4, "conv_2": 2, "conv_3": 1}
    for name, parts in layers.items():
        kernel = np.float32(parts["weights"]) * np.float64(parts.get("mask", 1))
        if name in strides:
            size, stride = kernel.shape[0], strides[name]
            windows = np.lib.stride_tricks.sliding_window_view(values, (size, size), axis=(1, 2))[:, ::stride, ::stride]
            values = np.einsum("bhwcij,ijco->bhwo", windows, kernel)
        else:
            values = values.reshape(len(values), -1) @ kernel
        values = values + np.float32(parts["biases"])
        values = output(values) if name == "logits" else np.maximum(values, 0)
    return values


@pytest.fixture
def run(monkeypatch, capsys):
    """Runs the command in this process, which saves the start of TensorFlow. Returns (exit code, stdout, stderr)."""
    from pops.scripts import import_published

    def start(*arguments):
        monkeypatch.setattr(sys, "argv", ["import_published.py", *map(str, arguments)])
        before = signal.getsignal(signal.SIGINT)
        capsys.readouterr()  # what writing a checkpoint printed
        try:
            import_published.main()
            code = 0
        except SystemExit as end:
            code = end.code
        finally:
            signal.signal(signal.SIGINT, before)
        return code, *capsys.readouterr()

    return start


@pytest.fixture
def refused(run, tmp_path):
    """Runs the command, which must exit with 2 and one line that has the words, and write nothing."""

    def start(*arguments, words):
        out = tmp_path / "refused" / "teacher.keras"
        code, stdout, stderr = run(*arguments[:2], out, *arguments[2:])
        assert (code, stdout, stderr.count("\n")) == (2, "", 1), (stdout, stderr)
        assert stderr.startswith("import_published.py: ")
        assert words in stderr, stderr
        assert not out.parent.exists()

    return start


def load(environment, path):
    return load_teacher(path, environment, configuration(environment)["model"])


def observations_of(environment):
    generator = np.random.default_rng(5)
    if environment == "pong":
        return generator.integers(0, 256, (20, 4, 84, 84), dtype=np.uint8)
    return generator.normal(0, 1, (1000, *shapes_of(environment)["fc_1"][:1])).astype(np.float32)


OPTIMIZERS = {
    "cartpole": lambda: tf1.train.RMSPropOptimizer(1e-3),
    "lunarlander": lambda: tf1.train.AdamOptimizer(1e-3, name="optimizer"),
    "pong": lambda: tf1.train.AdamOptimizer(1e-3),
}


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize("environment", NAMES)
def test_the_teacher_computes_the_published_function(run, tmp_path, environment, masked):
    layers = arrays_of(shapes_of(environment), seed=6, masked=masked)
    path = write_checkpoint(tmp_path / "published", {"": layers}, OPTIMIZERS[environment], step=1000)
    assert path.endswith("model.ckpt-1000")
    slots = {name.rpartition("/")[2] for name, _ in tf.train.list_variables(path)}
    assert {"threshold", "ExponentialMovingAverage"} < slots and slots & {"RMSProp_1", "optimizer_1", "Adam_1"}
    out = tmp_path / "new" / "teacher.keras"
    code, stdout, stderr = run(path, environment, out)
    assert (code, stderr) == (0, "")

    weights = sum(parts["weights"].size for parts in layers.values())
    nonzero = sum(int(np.sum(parts.get("mask", np.ones_like(parts["weights"])))) for parts in layers.values())
    units = "-".join(str(n) for n in DENSE.get(environment, (4, 3, 3, 5, 6, 3)))
    assert stdout == f"{out}: {environment}, layers {units}, {weights:,} weights, {nonzero:,} nonzero\n"

    teacher = load(environment, out)
    assert teacher.network.name == f"{environment}_teacher"
    observations = observations_of(environment)
    relu = environment == "cartpole"
    states = observations.transpose(0, 2, 3, 1) if environment == "pong" else observations
    expected = published_outputs(layers, states, output=(lambda x: np.maximum(x, 0)) if relu else lambda x: x)
    outputs = np.asarray(teacher.network(observations))
    assert np.abs(outputs - expected).max() < 1e-5 * np.abs(expected).max()
    assert (outputs.argmax(axis=1) == expected.argmax(axis=1)).all()
    assert (outputs < 0).any() != relu
    assert expected.std() > 0.1  # the outputs depend on the observations
    check_seal(out)
    check_listed(out)
    assert out.name in (out.parent / "SHA256SUMS").read_text()


def test_input_scale(run, refused, tmp_path):
    layers = arrays_of(PONG)
    path = write_checkpoint(tmp_path / "published", {"": layers})
    out = tmp_path / "teacher.keras"
    assert run(path, "pong", out, "--input-scale", 255)[0] == 0
    frames = observations_of("pong")
    expected = published_outputs(layers, frames.transpose(0, 2, 3, 1), scale=255)
    assert np.abs(np.asarray(load("pong", out).network(frames)) - expected).max() < 1e-5 * np.abs(expected).max()
    for value in ("0", "-1", "nan", "inf", "1e7"):
        refused(path, "pong", f"--input-scale={value}", words=f"--input-scale {float(value):g}: only for pong, and from 1")
    refused(path, "cartpole", "--input-scale=255", words="--input-scale 255: only for pong")


def test_a_dense_layer_counted_from_one_after_convolutions(run, tmp_path):
    layers = {{"fc_4": "fc_1"}.get(name, name): parts for name, parts in arrays_of(PONG).items()}
    path = write_checkpoint(tmp_path / "published", {"": layers})
    assert run(path, "pong", tmp_path / "teacher.keras")[0] == 0


@pytest.mark.parametrize("given", ["model.ckpt.index", "model.ckpt.meta", "model.ckpt.data-00000-of-00001", ""])
def test_the_checkpoint_by_its_files_and_by_its_folder(run, tmp_path, given):
    folder = tmp_path / "published"
    write_checkpoint(folder, {"": arrays_of(shapes_of("cartpole"))})
    assert run(folder / given, "cartpole", tmp_path / "teacher.keras")[0] == 0


@pytest.mark.parametrize("where", [r"C:\\PoPS\\saved_models\\model.ckpt-20", "/media/student/PoPS/model.ckpt-20", None])
def test_a_folder_that_came_from_another_machine(run, refused, tmp_path, where):
    """Its file `checkpoint` names a path there, or was left out."""
    folder = tmp_path / "published"
    write_checkpoint(folder, {"": arrays_of(shapes_of("cartpole"), seed=1)}, step=10)
    write_checkpoint(folder, {"": arrays_of(shapes_of("cartpole"), seed=2)}, step=20)
    if where:
        (folder / "checkpoint").write_text(f'model_checkpoint_path: "{where}"\n')
    else:
        (folder / "checkpoint").unlink()
        refused(folder, "cartpole", words="holds several checkpoints, model.ckpt-10, model.ckpt-20; give the path")
        for file in folder.glob("model.ckpt-10.*"):
            file.unlink()
    assert run(folder, "cartpole", tmp_path / "found.keras")[0] == 0
    assert run(folder / "model.ckpt-20", "cartpole", tmp_path / "named.keras")[0] == 0
    assert (tmp_path / "found.keras").read_bytes() == (tmp_path / "named.keras").read_bytes()


def test_several_networks_in_one_checkpoint(run, refused, tmp_path):
    shapes = shapes_of("lunarlander")
    actor, target = arrays_of(shapes, seed=1), arrays_of(shapes, seed=2)
    critic = arrays_of(shapes | {"logits": (10, 1)}, seed=3)
    path = write_checkpoint(tmp_path / "one", {"actor": actor, "critic": critic}, OPTIMIZERS["lunarlander"])
    out = tmp_path / "one.keras"
    code, stdout, _ = run(path, "lunarlander", out)
    assert code == 0 and stdout.endswith(" nonzero, from the scope actor\n")
    networks = {"main/actor": actor, "main/target": target, "critic": critic, "": target}
    path = write_checkpoint(tmp_path / "several", networks, OPTIMIZERS["lunarlander"])
    refused(
        *(path, "lunarlander"),
        words=f"{path}: 3 networks fit; choose one with --scope '' or --scope main/actor or --scope main/target",
    )
    same = tmp_path / "same.keras"
    assert run(path, "lunarlander", same, "--scope", "main/actor/")[0] == 0
    assert same.read_bytes() == out.read_bytes()
    assert run(path, "lunarlander", tmp_path / "target.keras", "--scope", "")[0] == 0
    refused(path, "lunarlander", "--scope=critic", words="critic/logits/weights is [10, 1] and should be [10, 4]")
    refused(path, "lunarlander", "--scope=m", words="has no layers under --scope m; try --scope critic or --scope '' or ")


def broken(environment, **changes):
    """A network of an environment, its `layer__part` replaced, or left out for None."""
    layers = arrays_of(shapes_of(environment))
    for place, value in changes.items():
        layer, _, part = place.partition("__")
        if value is None and part:
            del layers[layer][part]
        elif value is None:
            del layers[layer]
        else:
            layers.setdefault(layer, {})[part] = value
    return layers


@pytest.mark.parametrize(
    ("environment", "changes", "words"),
    [
        ("cartpole", {"fc_2__biases": None}, "net/fc_2/biases is missing"),
        ("cartpole", {"logits__weights": None}, "net/logits/weights is missing"),
        ("cartpole", {"fc_2": None}, "net/(fc_1, fc_3, logits) should be fc_1, fc_2, logits"),
        ("cartpole", {"logits": None}, "net/(fc_1, fc_2, fc_3) should be fc_1, fc_2, fc_3, logits"),
        (
            "cartpole",
            {"conv_1__weights": np.ones((8, 8, 4, 3))},
            "(conv_1, fc_1, fc_2, fc_3, logits) should be fc_1, fc_2, fc_3, logits",
        ),
        ("cartpole", {"fc_1__weights": np.ones((8, 16))}, "net/fc_1/weights is [8, 16] and should be [4, 16]"),
        ("cartpole", {"fc_2__weights": np.ones((12, 16))}, "net/fc_2/weights is [12, 16] and should be [16, 16]"),
        ("cartpole", {"fc_2__weights": np.ones((16,))}, "net/fc_2/weights is [16] and should be [16, 16]"),
        ("cartpole", {"fc_2__weights": np.ones(())}, "net/fc_2 has no units"),
        ("cartpole", {"fc_2__weights": np.ones((16, 0))}, "net/fc_2 has no units"),
        ("cartpole", {"fc_2__biases": np.ones(())}, "net/fc_2/biases is [] and should be [12]"),
        ("cartpole", {"fc_3__mask": np.ones((12, 1))}, "net/fc_3/mask is [12, 1] and should be [12, 8]"),
        ("cartpole", {"logits__weights": np.ones((8, 4))}, "net/logits/weights is [8, 4] and should be [8, 2]"),
        ("cartpole", {"fc_3__biases": np.full(8, np.nan)}, "net/fc_3/biases holds values that are not finite"),
        ("lunarlander", {"logits__weights": np.ones((10, 1))}, "net/logits/weights is [10, 1] and should be [10, 4]"),
        ("pong", {"conv_3": None}, "should be conv_1, conv_2, conv_3, fc_4, logits"),
        ("pong", {"fc_5__weights": np.ones((6, 6))}, "should be conv_1, conv_2, conv_3, fc_4, logits"),
        ("pong", {"conv_1__weights": np.ones((8, 8, 1, 3))}, "conv_1/weights is [8, 8, 1, 3] and should be [8, 8, 4, 3]"),
        ("pong", {"conv_2__weights": np.ones((2, 2, 3, 3))}, "conv_2/weights is [2, 2, 3, 3] and should be [4, 4, 3, 3]"),
        ("pong", {"fc_4__weights": np.ones((500, 6))}, "net/fc_4/weights is [500, 6] and should be [245, 6]"),
    ],
)
def test_what_does_not_fit_is_named(refused, tmp_path, environment, changes, words):
    path = write_checkpoint(tmp_path / "published", {"net": broken(environment, **changes)})
    refused(path, environment, words=f"{path}: no network that fits: net/")
    refused(path, environment, words=words)


def test_every_network_that_does_not_fit_is_named(refused, tmp_path):
    networks = {"a": broken("cartpole", fc_2__biases=None), "b": broken("lunarlander")}
    path = write_checkpoint(tmp_path / "published", networks)
    refused(path, "cartpole", words="a/fc_2/biases is missing; b/fc_1/weights is [8, 12] and should be [4, 12]")


def test_arguments(run, refused, tmp_path):
    whole = path = write_checkpoint(tmp_path / "published", {"": arrays_of(shapes_of("cartpole"))})
    refused(path, "cartpol", words="did you mean cartpole")
    refused(path, "pacman", words="pacman: its network is not in the published code; cartpole, lunarlander, pong are")
    assert set(NAMES) | {"pacman"} == set(ENVIRONMENTS)
    path = tmp_path / "none.ckpt"
    refused(path, "cartpole", words=f"{path}: no checkpoint, as there is no file {path}.index")
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "cartpole", words="empty: holds no checkpoint")
    other = write_checkpoint(tmp_path / "other", {"": {"dense": {"kernel": np.ones((4, 2))}}})
    refused(other, "cartpole", words="holds no layers such as fc_1/weights and logits/weights, but dense/kernel, ")
    out = tmp_path / "teacher.h5"
    code, _, stderr = run(whole, "cartpole", out)
    assert code == 2 and stderr == f"import_published.py: {out}: the name of a Keras file ends with .keras\n"
    out = tmp_path / "file" / "teacher.keras"
    (tmp_path / "file").write_text("")
    code, _, stderr = run(whole, "cartpole", out)
    assert code == 2 and stderr.startswith(f"import_published.py: {out.parent}: no folder can be made there"), stderr
    assert stderr.count("\n") == 1


def test_an_existing_file_is_not_overwritten(run, tmp_path):
    path = write_checkpoint(tmp_path / "published", {"": arrays_of(shapes_of("cartpole"))})
    out = tmp_path / "teacher.keras"
    out.write_text("mine")
    code, _, stderr = run(path, "cartpole", out)
    assert code == 2 and stderr == f"import_published.py: {out}: exists already; remove it or give another name\n"
    assert out.read_text() == "mine"


def test_damaged_checkpoints_give_one_line(run, refused, tmp_path):
    """Whatever byte is changed: one line, or the same teacher where the byte says nothing about it."""
    folder = tmp_path / "whole"
    write_checkpoint(folder, {"": arrays_of(shapes_of("cartpole"))}, OPTIMIZERS["cartpole"])
    whole = tmp_path / "whole.keras"
    assert run(folder, "cartpole", whole)[0] == 0
    generator = np.random.default_rng(0)
    ends = []
    for number in range(60):
        copy, out = tmp_path / f"copy{number}", tmp_path / f"copy{number}.keras"
        shutil.copytree(folder, copy)
        file = copy / ("model.ckpt.index", "model.ckpt.data-00000-of-00001")[number % 2]
        content = bytearray(file.read_bytes())
        content[generator.integers(len(content))] ^= 1 << generator.integers(8)
        file.write_bytes(content[: generator.integers(len(content))] if number % 3 == 0 else content)
        code, _, stderr = run(copy / "model.ckpt", "cartpole", out)
        ends.append(code)
        if code == 0:
            assert out.read_bytes() == whole.read_bytes()
        else:
            assert code == 2 and stderr.count("\n") == 1 and ": damaged, or no checkpoint (" in stderr, stderr
    assert ends.count(2) > 30
    (folder / "model.ckpt.data-00000-of-00001").unlink()
    refused(folder, "cartpole", words=": damaged, or no checkpoint (")
    (folder / "model.ckpt.index").write_bytes(b"")
    refused(folder, "cartpole", words=": damaged, or no checkpoint (")
    (folder / "checkpoint").write_bytes(bytes(range(256)))
    refused(folder, "cartpole", words=": damaged, or no checkpoint (")


@pytest.mark.slow
def test_as_a_user_runs_it(tmp_path):
    """The command, then evaluate.py and pops.py with what it wrote."""
    path = write_checkpoint(tmp_path / "published", {"": arrays_of(shapes_of("cartpole"))}, OPTIMIZERS["cartpole"])
    out = tmp_path / "teacher.keras"
    result = command("import_published.py", path, "cartpole", out)
    assert (result.returncode, result.stderr) == (0, "")
    result = command("import_published.py", path, "cartpole", out)
    assert result.returncode == 2 and result.stderr.count("\n") == 1
    result = command("evaluate.py", out, "--episodes", 2, "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["weights"] == 4 * 16 + 16 * 12 + 12 * 8 + 8 * 2
    result = tiny_pops(tmp_path / "run", "--teacher", out, "--set", "pops.steps=1")
    assert result.returncode == 0, result.stderr
    result = command("import_published.py", "--help")
    assert result.returncode == 0 and "example:\n  python scripts/import_published.py " in result.stdout


@pytest.mark.slow
def test_evaluate_plays_an_imported_pong_teacher(run, tmp_path):
    path = write_checkpoint(tmp_path / "published", {"": arrays_of(PONG)})
    out = tmp_path / "teacher.keras"
    assert run(path, "pong", out)[0] == 0
    result = command("evaluate.py", out, "--episodes", 2, "--json", "--set", "environment.max_episode_steps=60")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)["weights"] == sum(np.prod(shape) for shape in PONG.values())
