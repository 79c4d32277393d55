"""The ways from a teacher to a small network: PoPS, and what it is compared with. The setting `pops.method` chooses one.

Each takes what `prune.pops` takes, tells the same records, and returns why it ended, in words.
"""

from operator import itemgetter

import numpy as np

from pops.model import agents_of
from pops.prune import attempt, iterative_pruning_policy_distillation, pops, read_off, state_to_prune
from pops.support.floor import search_floor
from pops.support.playing import evaluate_network
from pops.support.random_search import Search
from pops.support.rewards import lower_confidence, reward_statistics
from pops.utils import magnitude_mask

PARTS = 30  # of random search


def pops_and_search(teacher, task, records):
    """PoPS; where no step leads further, a search for the smallest network, unless the settings leave it out."""
    ended = pops(teacher, task, records)
    search_floor(teacher, task, records)
    return ended


def search(teacher, task, records):
    """The search alone, from the teacher's shape: nothing is pruned."""
    search_floor(teacher, task, records)
    return "the search ended"


def direct(teacher, task, records):
    """The teacher is distilled into networks of the shapes `pops.shapes`, each from fresh weights."""
    student, task = student_of(teacher), task.apart()
    for widths in task.config["pops"]["shapes"]:
        step, attempts = records.begin(student), []
        smaller, distilled = attempt(student, tuple(widths), task, step, attempts)
        network = smaller.plain_network("student", distilled.weights)
        if distilled.met:
            records.shrunk(step, network, smaller.widths, attempts)
        else:
            records.failed(step, attempts, network)
    return "every shape was tried"


def prune(teacher, task, records):
    """The teacher is pruned step by step while it is distilled (IPP), once; no network is shrunk."""
    student = student_of(teacher)
    records.started(1, student)
    weights = iterative_pruning_policy_distillation(student, state_to_prune(student, teacher.network, task, 1), task, 1)
    if weights is None:
        return "no pruned student met the objective"
    read_off(student, student.plain_network("pruned", weights), teacher.layer_sizes(), records, 1)
    return "pruned"


def one_shot(teacher, task, records):
    """The smallest magnitudes of each of the teacher's layers are removed at once, and nothing is trained: a half of them,
    three quarters and so on, until a layer has none left."""
    student, sizes, step = student_of(teacher), teacher.layer_sizes(), 0
    weights, masks = student.copy(teacher.network)
    while (share := 0.5 ** (step + 1)) * min(sizes) >= 1:
        step += 1
        records.started(step, student)
        layers = zip(weights[::2], masks, sizes, strict=True)
        fewer = [magnitude_mask(kernel, mask, 1 - share, size) for kernel, mask, size in layers]
        read_off(student, student.plain(weights, fewer, role="pruned"), sizes, records, step)
    return "a layer would have no weights left"


def ars(teacher, task, records):
    """A linear policy by augmented random search, which learns from rewards alone: until it meets the objective
    on the episodes that confirm students, for at most `PARTS` times some iterations."""
    student, settings = student_of(teacher), task.config["distill"]
    step, search, best = records.begin(student), Search(student, task), (-np.inf, None)
    episodes = settings["confirm_episodes"] or settings["episodes"]
    for part in range(1, PARTS + 1):
        search.go_on(part)
        network = search.network()
        key = ("score", "random search", part)
        rewards = task.run.once(key, evaluate_network, network, task.config, task.seeds, episodes, "confirm", "students")
        score = lower_confidence(task.reference.adjusted(rewards), settings["confirm_confidence"])
        best = max(best, (score, network, rewards), key=itemgetter(0))
        met = score > task.config["evaluation"]["objective"]
        if met:
            break
    _, network, rewards = best
    weights = sum(student.layer_sizes(()))
    tried = {"widths": (), "weights": weights, "met_objective": bool(met), "epochs": part}
    attempts = [tried | {"chosen_by": reward_statistics(rewards)}]
    if met:
        records.shrunk(step, network, (), attempts)
    else:
        records.failed(step, attempts, network)
    return "linear policies by random search"


def student_of(teacher):
    """The student of the teacher's own shape."""
    return agents_of(teacher.environment).student(teacher.settings, teacher.widths)


METHODS = {
    "pops": pops_and_search,
    "search": search,
    "direct": direct,
    "prune": prune,
    "one_shot": one_shot,
    "ars": ars,
}
