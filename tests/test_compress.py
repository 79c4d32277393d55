"""Any environment of Gymnasium and any teacher: what is derived from them, and the whole method on a tiny budget."""

import json
import zipfile

import gymnasium
import keras
import numpy as np
import pytest

from pops.compress import compress
from pops.configs import configuration
from pops.deploy.check import check_numbers
from pops.model import DQNPong, agents_of
from pops.policies.formats import what_is
from pops.policies.functions import TeacherFunction
from pops.policies.teacher import load_teacher
from pops.support import vector
from pops.support.environments import check_spaces, configuration_of, describe, make_environments, named
from pops.support.errors import ConfigurationError, RunFailed
from pops.support.networks import read_network, save_network
from pops.support.playing import evaluate_network, select_actions
from pops.support.seeds import Seeds
from pops.support.session import goal, warn_of
from pops.support.vector import GymnasiumEnvironments

from conftest import TEACHER, TINY, Evil, command, refused

ANY = [setting for setting in TINY if not setting.startswith("evaluation.")] + [
    "evaluation.choose_episodes=20",
    "evaluation.report_episodes=20",
    "replay.student_states=100",
    "distill.until=objective",
]


class Odd(gymnasium.Env):
    """An environment of which the tests change the spaces."""

    observation_space = gymnasium.spaces.Box(-1, 1, (2,), np.float32)
    action_space = gymnasium.spaces.Discrete(2)

    def reset(self, seed=None, options=None):
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action):
        return np.zeros(2, np.float32), 0.0, False, False, {}


def register(monkeypatch, limit=5, **changes):
    monkeypatch.setitem(gymnasium.registry, "odd/Odd-v0", gymnasium.envs.registration.EnvSpec("odd/Odd-v0", Odd, None))
    gymnasium.registry["odd/Odd-v0"].max_episode_steps = limit
    for name, space in changes.items():
        monkeypatch.setattr(Odd, name, space)


def dense(observations, actions, widths=(5,), activation="relu", name="policy"):
    hidden = [keras.layers.Dense(width, activation) for width in widths]
    network = keras.Sequential([keras.Input([observations]), *hidden, keras.layers.Dense(actions)], name=name)
    generator = np.random.default_rng(0)
    network.set_weights([generator.normal(size=w.shape).astype(np.float32) for w in network.get_weights()])
    return network


# What an environment says of itself


def test_an_environment_describes_itself():
    config = configuration_of("Acrobot-v1", assignments=["prune.iterations=3"])
    assert config["environment"]["id"] == "Acrobot-v1" and config["environment"]["max_episode_steps"] == 500
    assert (
        config["model"]["observation_shape"] == [6] and config["model"]["actions"] == 3 and config["model"]["bounds"] == []
    )
    assert config["prune"]["iterations"] == 3 and config["evaluation"]["objective"] is None
    continuous = configuration_of("Pendulum-v1")["model"]
    assert continuous["actions"] == 1 and continuous["bounds"] == [[-2.0], [2.0]]
    assert configuration_of("cartpole") == configuration("cartpole", assignments=["environment.simulator=gymnasium"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("NoSuch-v1", "NoSuch-v1 is not an environment that Gymnasium has"),
        ("Blackjack-v1", "observations Tuple"),
        ("LunarLander-v2", "it is now LunarLander-v3"),
        ("CartPole-v0", "it is now CartPole-v1 with --set environment.max_episode_steps=200"),
        ("PongNoFrameskip-v4", "is now ALE/Pong-v5"),
        ("Hopper-v3", "Hopper-v4 has the same rewards"),
        ("Acrobot-v9", "it has Acrobot-v1"),
    ],
)
def test_environments_that_pops_has_no_agents_for_are_refused(name, words):
    with pytest.raises(ConfigurationError, match=r"^environment\.id: ") as error:
        describe(name)
    assert words in str(error.value)


@pytest.mark.parametrize(
    ("spaces", "words"),
    [
        (
            {"observation_space": gymnasium.spaces.Dict(a=gymnasium.spaces.Discrete(2))},
            "gymnasium.wrappers.FlattenObservation",
        ),
        ({"observation_space": gymnasium.spaces.Box(0, 255, (9, 9, 3), np.uint8)}, "of these only Atari games"),
        ({"observation_space": gymnasium.spaces.Text(3)}, "has observations Text"),
        ({"action_space": gymnasium.spaces.Box(-np.inf, 1, (1,))}, "continuous ones must be bounded"),
        ({"action_space": gymnasium.spaces.Box(0, 9, (1,), np.int64)}, "whole numbers, which a policy does not give"),
        ({"action_space": gymnasium.spaces.Text(3)}, "has actions Text"),
        ({"limit": None}, "environment.max_episode_steps: null is not an integer"),
    ],
)
def test_spaces_and_limits_that_pops_cannot_use_are_named(spaces, words, monkeypatch):
    register(monkeypatch)
    assert configuration_of("odd/Odd-v0")["model"]["actions"] == 2
    register(monkeypatch, **spaces)
    with pytest.raises(ConfigurationError) as error:
        configuration_of("odd/Odd-v0")
    assert words in str(error.value)


def test_other_environments_ask_for_a_margin_only_where_a_student_is_confirmed():
    config = configuration_of("CartPole-v1")  # of many that are tried on the same episodes, a lucky one comes through
    margins = config["prune"]["confidence"], config["distill"]["confidence"], config["distill"]["confirm_confidence"]
    assert margins == (0, 0, 1)


@pytest.mark.parametrize("error", [0.0, 4.0, 5.0])
def test_the_objective_leaves_a_standard_error_or_one_percent_of_the_way_from_random_play(error):
    config = configuration_of("CartPole-v1", assignments=ANY)
    teacher = {"episodes": 20, "reward_mean": 500.0, "reward_stderr": error}
    found = goal(teacher, dense(4, 2), config, Seeds(3))
    random = found["random"]["reward_mean"]
    assert 15 < random < 30
    assert found["margins"] == {"standard_error": error, "of_the_way": pytest.approx(0.01 * (500 - random))}
    assert found["objective"] == pytest.approx(500 - (5 if error == 5 else 0.01 * (500 - random)))
    assert found["lower_bound"] == pytest.approx(random + 0.75 * (found["objective"] - random))


def test_the_lower_bound_is_three_quarters_of_the_way_from_random_play():
    config = configuration_of("CartPole-v1", assignments=[*ANY, "evaluation.objective=100"])
    randomly = config | {"evaluation": config["evaluation"] | {"epsilon": 1.0, "report_episodes": 1000}}
    random = evaluate_network(dense(4, 2), randomly, Seeds(0), 1000, "select", "other").mean()
    assert 20 < random < 25
    teacher = {"episodes": 1000, "reward_mean": 150.0, "reward_stderr": 1.0}
    found = goal(teacher, dense(4, 2), randomly, Seeds(0))
    assert found["objective"] == 100
    assert found["margins"]["of_the_way"] == pytest.approx(0.01 * (150 - random), abs=0.01)
    assert found["lower_bound"] == pytest.approx(random + 0.75 * (100 - random), abs=1)
    config["evaluation"]["objective"] = 5
    with pytest.raises(RunFailed, match="not above the reward of random actions"):
        goal(teacher, dense(4, 2), config, Seeds(0))
    config["evaluation"]["objective"] = 150
    with pytest.raises(RunFailed, match=r"reward, 150\.0 ± 1\.0, is not above the objective, 150; train it further"):
        goal(teacher, dense(4, 2), config, Seeds(0))


@pytest.mark.parametrize(
    ("mean", "error", "expected", "warned"),
    [
        (150, 3, 282, True),
        (280, 3, 282, False),
        (290, 3, 282, False),
        (500, 0, 500, False),
        (-110, 1, -90, True),
        (9, 9, None, False),
    ],
)
def test_a_run_warns_of_a_teacher_whose_reward_is_far_from_the_expected(capsys, mean, error, expected, warned):
    warn_of({"episodes": 20, "reward_mean": mean, "reward_stderr": error}, expected)
    assert ("WARNING" in capsys.readouterr().out) is warned


# Any teacher


def upright(observations):
    """A rule for CartPole: push towards where the pole falls."""
    lean = observations[:, 2] + observations[:, 3]
    return np.stack([-lean, lean], axis=1)


# A rule that holds the pole is imitated quickly; the objective is far below what it reaches.
IMITATED = [*ANY, "model.widths=[16]", "distill.updates=500", "distill.epochs=4", "evaluation.objective=60"]


def test_a_function_is_imitated_and_compressed(tmp_path):
    summary = compress(upright, "CartPole-v1", tmp_path / "run", settings=IMITATED)
    assert summary["teacher"]["widths"] == [16] or summary["teacher"]["widths"] == (16,)
    assert summary["teacher"]["weights"] == 4 * 16 + 16 * 2 and summary["teacher"]["reward_mean"] > 60
    assert summary["final"]["weights"] <= summary["teacher"]["weights"]
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["teacher"].endswith("test_compress.upright") and config["teacher_sha256"] is None
    student = read_network(tmp_path / "run" / "student.keras")
    assert student.name.rpartition("_")[0] == "CartPole-v1"
    assert summary["imitated"]["reward_mean"] > 60


@pytest.mark.slow
def test_a_function_gives_the_same_student_to_the_bit(tmp_path):
    for name in ("one", "other"):
        compress(upright, "CartPole-v1", tmp_path / name, settings=IMITATED)
    assert (tmp_path / "one" / "student.keras").read_bytes() == (tmp_path / "other" / "student.keras").read_bytes()


def test_a_derived_objective_stands_in_the_summary_and_a_run_goes_on_with_it(tmp_path):
    robust = ['evaluation.robust={"epsilon": 0.01}', "distill.confirm_episodes=2"]
    settings = [*IMITATED[:-1], "evaluation.lower_bound=null", "checkpoint.seconds=0", "pops.steps=1", *robust]
    summary = compress(upright, "CartPole-v1", tmp_path / "run", settings=settings)
    margins = summary["margins"]  # of the function, which the network only imitates
    assert summary["imitated"]["reward_mean"] - summary["objective"] == pytest.approx(max(margins.values()))
    assert summary["lower_bound"] < summary["objective"]
    again = compress(upright, "CartPole-v1", tmp_path / "run", settings=settings, resume=True)
    assert again == summary
    assert summary["steps"][0]["robust"]["epsilon"]["holds"] and summary["final"]["epsilon"]["reward_mean"] > 60
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["settings"]["evaluation"]["objective"] is None


def test_environments_that_the_caller_registered_are_played_in_all_processes(monkeypatch):
    monkeypatch.setattr(vector, "cores", lambda: 2)
    register(monkeypatch)
    copies = make_environments({"id": "odd/Odd-v0", "max_episode_steps": 5}, 20, autoreset=False)
    assert copies.vector.num_envs == 2
    copies.reset(seed=0)
    ends = [copies.step(np.zeros(20, np.int64))[3].all() for _ in range(5)]
    assert ends == [False] * 4 + [True]


def test_a_teacher_for_cartpole_is_one_for_gymnasiums_cartpole():
    settings = configuration_of("CartPole-v1")["model"]
    assert load_teacher(TEACHER, "CartPole-v1", settings).widths == (256, 256, 128)
    with pytest.raises(ConfigurationError, match="is a policy for cartpole"):
        load_teacher(TEACHER, "Acrobot-v1", configuration_of("Acrobot-v1")["model"])


def test_an_environments_factory_is_compressed_in_and_resumed(tmp_path, monkeypatch):
    monkeypatch.setattr(vector, "cores", lambda: 2)

    def heavy_cartpole():
        environment = gymnasium.make("CartPole-v1", max_episode_steps=50)
        environment.unwrapped.masspole = 0.5
        return environment

    settings = [*ANY, "evaluation.objective=5", "evaluation.lower_bound=1", "pops.steps=1"]
    summary = compress(dense(4, 2, (8, 8)), heavy_cartpole, tmp_path / "run", settings=settings)
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["environment"] == config["settings"]["environment"]["id"] == "pops/heavy_cartpole-v0"
    assert config["settings"]["environment"]["max_episode_steps"] == 50
    assert read_network(tmp_path / "run" / "student.keras").name == "pops.heavy_cartpole-v0_student"
    assert compress(dense(4, 2, (8, 8)), heavy_cartpole, tmp_path / "run", settings=settings, resume=True) == summary


def test_a_function_that_cannot_be_imitated_ends_the_run(tmp_path):
    hard = [*IMITATED, "evaluation.objective=400", "distill.epochs=1"]
    with pytest.raises(RunFailed, match=r"imitates the teacher reached .* not the objective, 400; try other model.widths"):
        compress(upright, "CartPole-v1", tmp_path / "run", settings=[*hard, "distill.updates=1"])


def test_a_factorys_limit_of_steps_may_be_a_wrappers():
    made = gymnasium.envs.classic_control.CartPoleEnv
    name, _ = named(lambda: gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.wrappers.TimeLimit(made(), 77)))
    assert configuration_of(name)["environment"]["max_episode_steps"] == 77


@pytest.mark.parametrize(
    "function", [lambda o: np.zeros((len(o), 3)), lambda o: np.zeros(2), lambda o: np.full((len(o), 2), np.nan)]
)
def test_a_function_that_gives_something_else_is_refused(function):
    with pytest.raises(ConfigurationError, match=r"^the teacher: returned .* finite \(2, 2\) needed"):
        TeacherFunction(function, configuration("cartpole")["model"])


@pytest.mark.parametrize("shape", [(-1,), (-1, 1)])
def test_a_function_may_give_the_numbers_of_actions(shape):
    function = TeacherFunction(lambda o: (o[:, 0] > 0).astype(np.int64).reshape(shape), configuration("cartpole")["model"])
    assert function(np.float32([[1, 0, 0, 0], [-1, 0, 0, 0]])).tolist() == [[0, 1], [1, 0]]
    with pytest.raises(ConfigurationError, match="returned action 2; there are 0 to 1"):
        TeacherFunction(lambda o: np.full(len(o), 2), configuration("cartpole")["model"])
    with pytest.raises(ConfigurationError, match="returned a tuple of 2; the actions, or their values, alone are needed"):
        TeacherFunction(lambda o: (np.zeros(len(o)), None), configuration("cartpole")["model"])


def test_a_function_that_depends_on_chance_is_refused(tmp_path):
    generator = np.random.default_rng(0)
    with pytest.raises(ConfigurationError, match="gives other outputs for the same observations in another call"):
        compress(lambda o: upright(o) + 0.01 * generator.normal(size=(len(o), 2)), "CartPole-v1", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_keras_network_is_the_same_teacher_as_its_file(tmp_path):
    network = dense(4, 2, (8, 8), name="mine")
    network.save(tmp_path / "mine.keras")
    settings = [*ANY, "evaluation.objective=5", "evaluation.lower_bound=1", "pops.steps=1"]
    results = [
        compress(teacher, "CartPole-v1", tmp_path / name, settings=settings)
        for name, teacher in (("file", tmp_path / "mine.keras"), ("network", network))
    ]
    for summary in results:
        for entry in summary["steps"]:
            entry.pop("seconds")
        summary.pop("seconds")
    assert results[0] == results[1]
    assert json.loads((tmp_path / "network" / "config.json").read_text())["teacher"] == "mine"


def test_a_teacher_with_tanh_has_students_with_relu(tmp_path):
    settings = [*ANY, "evaluation.objective=5", "evaluation.lower_bound=1", "pops.steps=1"]
    compress(dense(4, 2, (8, 8), "tanh"), "CartPole-v1", tmp_path / "run", settings=settings)
    activations = {
        name: {layer.activation.__name__ for layer in read_network(tmp_path / "run" / name).layers[:-1]}
        for name in ("teacher.keras", "pruned_step_1.keras", "student.keras")
    }
    assert activations == {"teacher.keras": {"tanh"}, "pruned_step_1.keras": {"tanh"}, "student.keras": {"relu"}}


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_student_that_copies_a_teacher_gives_its_outputs(activation):
    network = dense(4, 2, (8, 8), activation)
    config = configuration_of("CartPole-v1")
    agent = load_teacher(network, "CartPole-v1", config["model"])
    student = agents_of("CartPole-v1").student(agent.settings, agent.widths)
    observations = np.random.default_rng(0).normal(size=(10, 4)).astype(np.float32)
    outputs = student(*student.copy(agent.network), observations[None])[0]
    np.testing.assert_allclose(outputs, network(observations), rtol=1e-4, atol=1e-5)


# Continuous actions


def test_continuous_actions_stay_within_their_bounds():
    outputs = np.float32([[[-5, 0.5], [0.1, 9]]])
    bounds = np.array([[-1.0, -2.0], [1.0, 2.0]], np.float32)
    np.testing.assert_allclose(select_actions(outputs, "greedy", bounds=bounds), [[[-1, 0.5], [0.1, 2]]])
    many = select_actions(np.zeros([1, 4000, 2], np.float32), "greedy", np.random.default_rng(1), 0.25, bounds)[0]
    changed = (many != 0).any(axis=-1)
    assert 0.22 < changed.mean() < 0.28
    assert np.abs(many[changed].mean(axis=0)).max() < 0.1
    np.testing.assert_allclose(many[changed].std(axis=0), [1 / np.sqrt(3), 2 / np.sqrt(3)], rtol=0.1)


@pytest.mark.parametrize("processes", [1, 2])
def test_copies_take_continuous_actions(processes, monkeypatch):
    monkeypatch.setattr(vector, "cores", lambda: processes)
    monkeypatch.setattr(GymnasiumEnvironments, "COPIES", 1)
    copies = make_environments({"id": "Pendulum-v1", "max_episode_steps": 30}, 3)
    assert copies.vector.num_envs == processes
    actions = np.random.default_rng(0).uniform(-2, 2, (20, 3, 1)).astype(np.float32)
    observations, _ = copies.reset(seed=5)
    results = [copies.step(step) for step in actions]
    for copy in range(3):
        environment = gymnasium.make("Pendulum-v1", max_episode_steps=30)
        np.testing.assert_array_equal(observations[copy], environment.reset(seed=5 + copy)[0])
        for step, action in zip(results, actions[:, copy], strict=True):
            observation, reward, *_ = environment.step(action)
            np.testing.assert_array_equal(step[0][copy], observation)
            assert step[1][copy] == reward


def test_loss_of_continuous_actions_is_the_divergence_of_laplace_distributions():
    """Against its integral; where the teacher is beyond a bound, a student that is there too has no error."""

    def divergence(distance, scale):
        x = np.linspace(-60 * scale, 60 * scale + distance, 200_001)
        density = np.exp(-np.abs(x) / scale) / (2 * scale)
        return np.trapezoid(density * (np.abs(x - distance) - np.abs(x)) / scale, x)

    settings = configuration_of("Pendulum-v1")["model"] | {"actions": 2, "bounds": [[-2.0, 0.0], [2.0, 1.0]]}
    student = agents_of("Pendulum-v1").student(settings, [3])
    generator = np.random.default_rng(0)
    teacher, outputs = (generator.normal(size=shape).astype(np.float32) * 2 for shape in ((6, 2), (3, 6, 2)))
    low, high, tau = np.array([-2, 0]), np.array([2, 1]), 0.3
    total = np.zeros(3)
    for member, row, number in np.ndindex(3, 6, 2):
        target, value = teacher[row, number], outputs[member, row, number]
        if target <= low[number]:
            error = max(value - low[number], 0)
        elif target >= high[number]:
            error = min(value - high[number], 0)
        else:
            error = value - target
        total[member] += divergence(abs(error), tau * (high - low)[number] / 2)
    np.testing.assert_allclose(student.loss(teacher, outputs, tau), total, rtol=1e-4)
    assert ((teacher <= low) | (teacher >= high)).any() and ((teacher > low) & (teacher < high)).any()


@pytest.mark.slow
def test_pops_runs_with_continuous_actions(tmp_path):
    settings = [*ANY, "evaluation.objective=-100000", "evaluation.lower_bound=-200000", "pops.steps=1", "prune.episodes=2"]
    summary = compress(dense(3, 1, (8, 8), "tanh"), "Pendulum-v1", tmp_path / "run", settings=settings)
    assert summary["final"]["step"] == 1
    result = command("evaluate.py", tmp_path / "run" / "student.keras", "--episodes", 3, "--json")
    assert result.returncode == 0 and json.loads(result.stdout)["weights"] == summary["final"]["weights"], result.stderr
    result = command(
        "record.py", "Pendulum-v1", tmp_path / "run" / "student.keras", "--out", tmp_path / "a.gif", "--seconds", 1
    )
    assert result.returncode == 0 and (tmp_path / "a.gif").read_bytes().startswith(b"GIF"), result.stderr
    result = command(
        "export.py", tmp_path / "run" / "student.keras", "--format", "c", "--out", tmp_path / "a.h", "--episodes", 3
    )
    assert result.returncode == 0 and "none differs from the Keras model's by more than" in result.stdout, result.stderr
    assert "static inline void policy_act(const float *observation, float *action)" in (tmp_path / "a.h").read_text()


def test_settings_for_discrete_actions_do_not_fit_continuous_ones():
    for setting, words in (
        ("evaluation.acting=sample", "evaluation.acting: sample is for discrete actions"),
        ("model.actions=2", "model.actions: 2 does not fit model.bounds"),
        ("prune.divide_outputs=true", "prune.divide_outputs: True is for discrete actions"),
    ):
        with pytest.raises(ConfigurationError, match=words):
            configuration_of("Pendulum-v1", assignments=[setting])
    config = configuration_of("Pendulum-v1", assignments=["model.bounds=[[-1],[1]]"])
    with pytest.raises(ConfigurationError, match=r"model\.bounds: \[\[-1\], \[1\]\] does not fit Pendulum-v1"):
        check_spaces(config)


def test_actions_of_another_runtime_must_stay_within_the_bounds(capsys):
    expected, bounds = np.array([[-5.0], [0.5], [9.0]], np.float32), [[-2.0], [2.0]]
    check_numbers(lambda o: (expected, np.clip(expected, -2, 2)), np.zeros((3, 3)), expected, bounds, exact=True)
    assert "of 3, none differs from the Keras model's by more than 0, of up to 2" in capsys.readouterr().out
    check_numbers(lambda o: (expected, expected.argmax(-1)), np.zeros((3, 3)), expected, bounds, exact=True)
    with pytest.raises(RunFailed, match="differ from the Keras model's by up to 1"):
        check_numbers(lambda o: (expected, np.clip(expected, -2, 3)), np.zeros((3, 3)), expected, bounds, exact=True)


# The function's arguments, and the command


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"seed": -1}, "seed: -1 is not an integer from 0"),
        ({"seed": 1.5}, "seed: 1.5 is not an integer"),
        ({"expect": float("nan")}, "expect: nan is not a number"),
        ({"expect": "500"}, "expect: '500' is not a number"),
        ({"settings": "prune.iterations=3"}, "settings: 'prune.iterations=3' is one string; give a list"),
        ({"seed": np.int64(3), "objective": np.float32(3), "expect": np.float64(3), "profile": "x"}, "unknown profile 'x'"),
    ],
)
def test_bad_arguments_of_compress_are_refused(arguments, words, tmp_path):
    with pytest.raises(ConfigurationError, match=words):
        compress(upright, "CartPole-v1", tmp_path / "run", **arguments)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], ["give either ENV"]),
        (["cartpole", "--env-id", "Acrobot-v1"], ["give either ENV"]),
        (["--env-id", "Acrobot-v1"], ["--env-id: needs --teacher"]),
        (["--env-id", "NoSuch-v1", "--teacher", TEACHER], ["NoSuch-v1 is not an environment"]),
        (["--env-id", "Acrobot-v1", "--teacher", "x.keras"], ["x.keras: cannot be read"]),
        (["cartpole", "--set", "evaluation.objective=150"], ["evaluation.lower_bound: 190 is not below the objective"]),
        (["cartpole", "--objective", "150", "--set", "evaluation.lower_bound=150"], ["evaluation.lower_bound: 150 is not"]),
    ],
)
def test_bad_arguments_are_refused_in_one_line(arguments, words, tmp_path):
    refused(command("pops.py", *arguments, "--out", tmp_path / "run"), *words)
    assert not (tmp_path / "run").exists()


def test_env_id_from_the_command(tmp_path):
    save_network(dense(6, 3, (6, 6), name="Acrobot-v1_teacher"), tmp_path / "teacher.keras")
    settings = [f"--set={setting}" for setting in [*ANY, "evaluation.lower_bound=-501", "environment.max_episode_steps=50"]]
    result = command(
        "pops.py",
        *(
            "--env-id",
            "Acrobot-v1",
            "--teacher",
            tmp_path / "teacher.keras",
            "--objective",
            "-500",
            "--out",
            tmp_path / "run",
        ),
        *settings,
    )
    assert result.returncode == 0, result.stderr
    assert (tmp_path / "run" / "report.html").exists()
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["environment"] == "Acrobot-v1" and config["settings"]["evaluation"]["objective"] == -500
    result = command(
        "pops.py", "--env-id", "MountainCar-v0", "--teacher", tmp_path / "teacher.keras", "--out", tmp_path / "b"
    )
    refused(result, "teacher.keras", "takes (None, 6) and gives (None, 3)", "needs (None, 2) and (None, 3)")


# Stable-Baselines3


def stable_baselines(path, tensors, policy="stable_baselines3.dqn.policies", images=False, actions=2, **data):
    """Writes a file as Stable-Baselines3 does, but for what PoPS does not read."""
    import torch

    space = {
        ":type:": "<class 'gymnasium.spaces.box.Box'>",
        "dtype": "float32",
        "_shape": [4],
        "low": "-inf",
        "high": "inf",
    }
    if images:
        space |= {"dtype": "uint8", "_shape": [4, 84, 84], "low": "0", "high": "255"}
    content = {
        "policy_class": {"__module__": policy},
        "policy_kwargs": {"features_extractor_class": NATURE_CNN} if images else {},
        "observation_space": space,
        "action_space": {":type:": "<class 'gymnasium.spaces.discrete.Discrete'>", "n": str(actions), "dtype": "int64"},
    }
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps(content | data))
        with archive.open("policy.pth", "w") as file:
            torch.save(tensors, file)
    return path


NATURE_CNN = "<class 'stable_baselines3.common.torch_layers.NatureCNN'>"


def torch_layers(name, module, numbers):
    return {f"{name}.{n}.{part}": getattr(module[n], part).detach() for n in numbers for part in ("weight", "bias")}


def test_stable_baselines_without_pytorch_says_what_to_install(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("data", "{}")
        archive.writestr("policy.pth", b"")
    assert what_is(tmp_path / "a.zip") == "a file of Stable-Baselines3"
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(
        ConfigurationError, match=r"PyTorch 2\.6 or newer is missing; install with: pip install -r requirements-sb3\.txt"
    ):
        load_teacher(tmp_path / "a.zip", "CartPole-v1", configuration_of("CartPole-v1")["model"])


@pytest.mark.parametrize("kind", ["dqn", "ppo", "ppo relu"])
def test_stable_baselines_mlp_policies_give_pytorchs_outputs(kind, tmp_path):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    hidden = nn.Tanh if kind == "ppo" else nn.ReLU
    network = nn.Sequential(nn.Linear(4, 7), hidden(), nn.Linear(7, 5), hidden(), nn.Linear(5, 2))
    if kind == "dqn":
        tensors = torch_layers("q_net.q_net", network, (0, 2, 4)) | {"q_net_target.q_net.0.weight": torch.zeros(7, 4)}
        path = stable_baselines(tmp_path / "a.zip", tensors)
    else:
        tensors = {
            **torch_layers("mlp_extractor.policy_net", network, (0, 2)),
            **{f"mlp_extractor.value_net.0.{part}": torch.zeros(3) for part in ("weight", "bias")},
            **{f"action_net.{part}": getattr(network[4], part).detach() for part in ("weight", "bias")},
            **{f"value_net.{part}": torch.zeros(3) for part in ("weight", "bias")},
        }
        options = {"activation_fn": "<class 'torch.nn.modules.activation.ReLU'>"} if kind == "ppo relu" else {}
        path = stable_baselines(tmp_path / "a.zip", tensors, "stable_baselines3.common.policies", policy_kwargs=options)
    agent = load_teacher(path, "CartPole-v1", configuration_of("CartPole-v1")["model"])
    assert agent.widths == (7, 5) and agent.settings["hidden_activation"] == ("tanh" if kind == "ppo" else "relu")
    observations = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(observations)).numpy()
    np.testing.assert_allclose(agent.network(observations), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["dqn", "ppo"])
def test_stable_baselines_cnn_policies_give_pytorchs_outputs(kind, tmp_path):
    torch = pytest.importorskip("torch")
    nn = torch.nn
    cnn = nn.Sequential(
        *(
            nn.Conv2d(4, 6, 8, 4),
            nn.ReLU(),
            nn.Conv2d(6, 5, 4, 2),
            nn.ReLU(),
            nn.Conv2d(5, 7, 3, 1),
            nn.ReLU(),
            nn.Flatten(),
        )
    )
    linear, head = nn.Sequential(nn.Linear(7 * 49, 9), nn.ReLU()), nn.Linear(9, 3)
    prefix = "q_net.features_extractor" if kind == "dqn" else "pi_features_extractor"
    tensors = torch_layers(f"{prefix}.cnn", cnn, (0, 2, 4)) | torch_layers(f"{prefix}.linear", linear, (0,))
    name, policy = ("q_net.q_net.0", "dqn") if kind == "dqn" else ("action_net", "common")
    tensors |= {f"{name}.{part}": getattr(head, part).detach() for part in ("weight", "bias")}
    path = stable_baselines(tmp_path / "a.zip", tensors, f"stable_baselines3.{policy}.policies", images=True, actions=3)
    agent = load_teacher(path, "pong", configuration("pong")["model"])
    assert isinstance(agent, DQNPong) and agent.widths == (6, 5, 7, 9)
    frames = np.random.default_rng(0).integers(256, size=(5, 4, 84, 84), dtype=np.uint8)
    with torch.no_grad():
        expected = head(linear(cnn(torch.from_numpy(frames) / 255))).numpy()
    np.testing.assert_allclose(agent.network(frames), expected, rtol=1e-3, atol=1e-4)


def test_stable_baselines_files_of_other_kinds_are_refused(tmp_path):
    torch = pytest.importorskip("torch")
    settings = configuration_of("CartPole-v1")["model"]
    network = torch.nn.Sequential(torch.nn.Linear(4, 7), torch.nn.ReLU(), torch.nn.Linear(7, 3))
    good = torch_layers("q_net.q_net", network, (0, 2))
    cases = {
        "its tensor q_net.q_net.0.weight (7, 4) is none that SAC has": [{"policy": "stable_baselines3.sac.policies"}],
        "its hidden layers have the activation torch.nn.modules.activation.Softmin": [
            {"policy_kwargs": {"activation_fn": "<class 'torch.nn.modules.activation.Softmin'>"}}
        ],
        "its tensor q_net.q_net.2.weight has 3 outputs, where its Discrete(2) needs 2": [{}],
        "the policy's actions are Discrete(3), CartPole-v1's Discrete(2)": [{"actions": 3}],
    }
    for words, variants in cases.items():
        for number, changes in enumerate(variants):
            path = stable_baselines(tmp_path / f"{number}.zip", good, **changes)
            with pytest.raises(ConfigurationError) as error:
                load_teacher(path, "CartPole-v1", settings)
            assert words in str(error.value)
    with pytest.raises(ConfigurationError, match="its policy is an MLP policy, and pong needs a CNN policy"):
        load_teacher(stable_baselines(tmp_path / "a.zip", good, actions=3), "pong", configuration("pong")["model"])


def test_stable_baselines_files_run_no_code(tmp_path):
    pytest.importorskip("torch")
    path = stable_baselines(tmp_path / "a.zip", {"q_net.q_net.0.weight": Evil(tmp_path / "ran")})
    with pytest.raises(ConfigurationError, match=r"policy\.pth cannot be read as tensors alone"):
        load_teacher(path, "CartPole-v1", configuration_of("CartPole-v1")["model"])
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda observations: 1 / 0, r"the teacher: raised ZeroDivisionError: division by zero \(in its call \d+\)"),
        (
            lambda observations: np.full((len(observations), 2), np.nan),
            r"the teacher: returned nan for action 0 of observation 0",
        ),
        (lambda observations: np.zeros((len(observations), 3)), r"the teacher: returned \(\d+, 3\) for a batch of"),
    ],
)
def test_a_function_that_fails_in_the_middle_is_named(answer, words, tmp_path):
    calls = iter(range(30))

    def act(observations):
        return answer(observations) if next(calls, None) is None else np.zeros((len(observations), 2))

    with pytest.raises(ConfigurationError, match=words):
        compress(act, "CartPole-v1", tmp_path / "run", settings=ANY)


def test_an_interruption_of_a_function_stays_one(tmp_path):
    def interrupted(observations):
        if len(observations) > 2:
            raise KeyboardInterrupt
        return upright(observations)

    with pytest.raises(KeyboardInterrupt):
        compress(interrupted, "CartPole-v1", tmp_path / "run", settings=IMITATED)


def test_an_object_that_is_no_policy_is_refused(tmp_path):
    with pytest.raises(ConfigurationError, match="the teacher is a dict, which is no policy; give a file"):
        compress({"weights": 1}, "CartPole-v1", tmp_path / "run")
