"""Settings: what is accepted is complete and consistent, what is refused is refused in one line that names the key."""

import copy
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pops.configs import ENVIRONMENTS, PROFILES, by_size, configuration, learning_rate, linear, settings_of, validate
from pops.support.errors import ConfigurationError


@pytest.mark.parametrize("environment", ENVIRONMENTS)
@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_is_valid_and_complete(environment, profile):
    config = configuration(environment, profile)
    assert {group: set(keys) for group, keys in config.items()} == {g: set(keys) for g, keys in settings_of(config).items()}


def test_paper_profile_has_the_papers_settings():
    config = configuration("cartpole", "paper")
    assert config["model"]["widths"] == [256, 256, 128]
    assert (config["evaluation"]["objective"], config["evaluation"]["lower_bound"]) == (190, 80)
    prune = config["prune"]
    assert (prune["iterations"], prune["updates"], prune["frequency"], prune["end"]) == (125, 20_000, 10, 500_000)
    assert (prune["tau"], prune["optimizer"], prune["final_sparsity"], prune["batch_size"]) == (0.01, "rmsprop", 0.99, 128)


def test_members_by_size():
    members = configuration("pong")["distill"]["members"]
    assert [by_size(members, percent) for percent in (100, 10, 1.01, 1, 0.2)] == [1, 1, 1, 2, 2]
    assert by_size(configuration("cartpole")["distill"]["members"], 5) == 8
    for wrong in ("0", "[]", "[[0,0]]", "[[1,2]]", "[[0,1],[1,2]]", "[[1,1.5],[0,1]]"):
        with pytest.raises(ConfigurationError, match=r"^distill\.members: .* is not an integer from 1 to 256, or a table"):
            configuration("cartpole", assignments=[f"distill.members={wrong}"])


def test_paper_profile_of_lunarlander():
    config = configuration("lunarlander", "paper")
    assert config["model"] == {
        **{"observation_shape": [8], "actions": 4, "bounds": [], "widths": [64, 64, 64]},
        **{"hidden_activation": "relu", "output_activation": "linear"},
        **{"background": 0, "factors": [], "squash": {}},
    }
    evaluation, prune = config["evaluation"], config["prune"]
    assert (evaluation["objective"], evaluation["lower_bound"], evaluation["acting"]) == (200, 100, "sample")
    assert (prune["iterations"], prune["batch_size"], prune["end"], prune["recovery"]) == (100, 512, 500_000, "freeze")
    rates = [("distill", 100, 40, 5e-6), ("distill", 11, 61, 5e-7), ("distill", 10, 20, 1e-3), ("prune", 9, 60, 1e-7)]
    for phase, percent, epoch, rate in rates:
        assert learning_rate(config[phase]["learning_rate"], percent, epoch) == rate


@pytest.mark.parametrize(
    ("phase", "percent", "epoch", "rate"),
    [
        ("distill", 100, 1, 1e-5),
        ("distill", 40.1, 20, 1e-5),
        ("distill", 40.1, 21, 5e-6),
        ("distill", 40, 1, 1e-4),
        ("distill", 10.1, 81, 1e-5),
        ("distill", 10, 50, 5e-4),
        ("distill", 0.1, 1000, 1e-4),
        ("prune", 5, 1, 1e-7),
        ("prune", 5, 80, 5e-8),
        ("prune", 50, 51, 2e-6),
    ],
)
def test_learning_rates_of_the_paper(phase, percent, epoch, rate):
    assert learning_rate(configuration("cartpole", "paper")[phase]["learning_rate"], percent, epoch) == rate


def test_linear_rate_falls_in_a_straight_line_and_stays():
    table = [[0, linear(3.0, 1.0, 5)]]
    assert [learning_rate(table, 1, epoch) for epoch in (1, 2, 3, 4, 5, 6, 99)] == [3, 2.5, 2, 1.5, 1, 1, 1]


def refused_by_name(environment, assignment, words):
    with pytest.raises(ConfigurationError) as error:
        configuration(environment, "fast", [assignment])
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_assignments_change_settings_and_the_last_wins():
    assignments = ["prune.iterations=3", "distill.learning_rate=0.5", "prune.iterations=4", "replay.refill=true"]
    config = configuration("cartpole", "fast", assignments)
    assert config["prune"]["iterations"] == 4
    assert config["distill"]["learning_rate"] == 0.5
    assert config["replay"]["refill"] is True


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("prune.itertions=3", "did you mean prune.iterations?"),
        ("prune.iterations", "group.key=value"),
        ("iterations=3", "group.key=value"),
        ("prune.iterations=0", "prune.iterations: 0 is not an integer from 1"),
        ("prune.iterations=2.5", "prune.iterations: 2.5 is not an integer"),
        ("prune.iterations=true", "prune.iterations: true is not an integer"),
        ("prune.iterations=three", 'prune.iterations: "three" is not an integer'),
        ("prune.final_sparsity=1", "prune.final_sparsity: 1 is not a number from 0 up to, not including, 1"),
        ("prune.final_sparsity=NaN", "prune.final_sparsity: NaN"),
        ("prune.optimizer=sgd", "one of rmsprop, adam"),
        ("replay.refill=1", "true or false"),
        ("distill.learning_rate=[[0,[[5,0.1]]]]", "distill.learning_rate"),
        ("model.widths=[0]", "model.widths"),
        ("evaluation.objective=-1e9", "evaluation.lower_bound"),
        ("evaluation.objective=1" + "0" * 400, "evaluation.objective"),
        ("prune.begin=5000", "prune.end: 5000 is not after prune.begin"),
        ("prune.updates=251", "prune.updates: 251 is not a multiple of prune.evaluate_every"),
        ("replay.capacity=10", "replay.capacity: 10 is below replay.observe"),
        ("prune.initial_sparsity=0.995", "prune.final_sparsity: 0.99 is below prune.initial_sparsity"),
        ("teacher.steps=3000", "teacher.steps: 3000 leaves no time for an evaluation"),
        ("distill.confirm_episodes=1", "0, or an integer from 2"),
        ("environment.sticky=0.25", "environment.sticky: 0.25 is for Atari games only"),
        ("environment.actions=[0,1]", "environment.actions: [0, 1] is for Atari games only"),
        ('evaluation.robust={"sticky": 1}', "evaluation.robust: {'sticky': 1} has sticky, which is for Atari games only"),
        ('evaluation.also=["sticky"]', "evaluation.also: ['sticky'] has sticky, which is for Atari games only"),
        ('evaluation.also=["plain"]', "evaluation.also: ['plain'] has plain, which is for Atari games only"),
        ("teacher.sticky=0.25", "teacher.sticky: 0.25 is for Atari games only"),
        ("teacher.n_steps=3", "teacher.n_steps: 3 is more than 1, which is for Atari games only"),
        ("teacher.terminal=life", "teacher.terminal: life is for Atari games only"),
        ("teacher.restart_every=3", "teacher.restart_every: 3 is below teacher.environments"),
        ("prune.tau=" + "[" * 10_000, "prune.tau"),
    ],
)
def test_bad_assignments_are_refused_by_name(assignment, words):
    refused_by_name("cartpole", assignment, words)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("teacher.batch_size=500", "teacher.batch_size: 500 does not divide the 16384 steps of a rollout"),
        ("teacher.steps=80000", "teacher.steps: 80000 leaves no time for an evaluation"),
        ("teacher.epsilon_first=1", "--set teacher.epsilon_first: unknown setting"),
        ("teacher.algorithm=dqn", "teacher.algorithm: lunarlander has a teacher that learns by actor_critic only"),
        ("teacher.algorithm=ppo", "teacher.algorithm: lunarlander"),
        ("teacher.batch_size=1", "teacher.batch_size: 1 is too small"),
        ("replay.student_states=400001", "replay.student_states: 400001 is above replay.capacity"),
        ("distill.until=end", "one of objective, teacher"),
        ("distill.confirm_episodes=0", "distill.until: teacher needs distill.confirm_episodes"),
        ("distill.evaluate_every=7", "distill.epochs: 4 is not a multiple of distill.evaluate_every"),
        ("distill.averaging=1", "distill.averaging: 1 is not a number from 0 to 0.999999"),
        ("replay.student_steps=-1", "replay.student_steps: -1 is not an integer"),
    ],
)
def test_bad_assignments_to_an_actor_critic_are_refused_by_name(assignment, words):
    refused_by_name("lunarlander", assignment, words)


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("replay.capacity=100", "replay.capacity: 100 is below"),
        ("teacher.learning_starts=150", "teacher.learning_starts: 150 is below 160, what a return needs"),
        ("environment.actions=[1,1]", "a list of different integers"),
        ("evaluation.also=[1]", "greedy"),
        ('evaluation.also=["greedy", "greedy"]', "different ones of greedy"),
        ('evaluation.robust={"noise": 1.5}', "a number above 0, up to 1"),
        ('evaluation.robust={"noise": 0.9}', "evaluation.robust: {'noise': 0.9} has noise, which is not for Atari games"),
        ("evaluation.noise=0.1", "evaluation.noise: 0.1 is not for Atari games"),
        ('evaluation.robust={"wind": 1}', "greedy, epsilon, sticky, plain, noise"),
    ],
)
def test_bad_assignments_to_an_atari_game_are_refused_by_name(assignment, words):
    refused_by_name("pong", assignment, words)


def test_robustness_needs_episodes_to_be_confirmed_on():
    with pytest.raises(ConfigurationError, match=r"evaluation\.robust: .* needs distill\.confirm_episodes"):
        configuration("cartpole", "paper", ['evaluation.robust={"noise": 0.9}'])
    assert configuration("cartpole", "fast", ['evaluation.robust={"noise": 0.9}'])


def test_paper_profile_of_pong():
    config = configuration("pong", "paper")
    evaluation, prune = config["evaluation"], config["prune"]
    assert (evaluation["objective"], evaluation["lower_bound"], evaluation["acting"]) == (18, 0, "greedy")
    assert (prune["iterations"], prune["batch_size"], prune["end"], prune["frequency"]) == (100, 256, 750_000, 50)
    rates = [("distill", 11, 5, 1e-5), ("distill", 11, 21, 5e-7), ("distill", 9, 21, 5e-5), ("distill", 9, 51, 1e-7)]
    for phase, percent, epoch, rate in [*rates, ("prune", 9, 20, 1e-5), ("prune", 99, 61, 1e-7)]:
        assert learning_rate(config[phase]["learning_rate"], percent, epoch) == rate


@pytest.mark.parametrize(("environment", "profile"), [("cartpol", "fast"), ("cartpole", "quick")])
def test_unknown_names_are_refused(environment, profile):
    with pytest.raises(ConfigurationError, match=r"unknown (environment|profile) '.*'"):
        configuration(environment, profile)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3),
    max_leaves=8,
)
NAMES = st.sampled_from(
    [(name, group, key) for name in ENVIRONMENTS for group, keys in configuration(name).items() for key in keys]
)


@given(NAMES, JSON)
def test_any_value_is_accepted_or_refused_by_name(name, value):
    environment, group, key = name
    config = configuration(environment)
    config[group][key] = value
    try:
        validate(config)
    except ConfigurationError as error:
        assert f"{group}." in str(error) and "\n" not in str(error)
    else:
        json.dumps(config, allow_nan=False)


@given(st.dictionaries(st.sampled_from([*configuration("cartpole"), "other"]), JSON))
def test_any_missing_or_extra_group_is_refused(changes):
    config = copy.deepcopy(configuration("cartpole"))
    config.update(changes)
    if changes:
        with pytest.raises(ConfigurationError):
            validate(config)
    for group in changes:
        config.pop(group)
    if set(changes) - {"other"}:
        with pytest.raises(ConfigurationError, match="missing"):
            validate(config)


@pytest.mark.parametrize(
    ("environment", "objective", "assignments", "bound"),
    [
        ("cartpole", 150, [], 145),
        ("pong", -3.5, [], -9.5),
        ("cartpole", 150, ["evaluation.lower_bound=20"], 20),
        ("cartpole", 150, ["evaluation.lower_bound=null"], None),
        ("cartpole", None, [], 190),
    ],
)
def test_the_lower_bound_moves_with_the_objective_unless_it_is_set(environment, objective, assignments, bound):
    evaluation = configuration(environment, assignments=assignments, objective=objective)["evaluation"]
    assert evaluation["objective"] == (195 if objective is None else objective)
    assert evaluation["lower_bound"] == bound


def test_an_objective_that_is_no_number_is_refused_by_name():
    with pytest.raises(ConfigurationError, match=r"evaluation\.objective: "):
        configuration("cartpole", objective=math.nan)
