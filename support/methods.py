"""The ways from a teacher to a small network: PoPS, and what it is compared with. The setting `pops.method` chooses one.

Each takes what `prune.pops` takes, tells the same records, and returns why it ended, in words.
"""

from operator import itemgetter

import numpy as np

from pops.prune import attempt, pops, prune_student, read_off, student_of, tried
from pops.support.floor import search_floor
from pops.support.playing import evaluate_network
from pops.support.random_search import Search
from pops.support.rewards import lower_confidence
from pops.train import Distilled
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
        record(records, step, smaller.plain_network("student", distilled.weights), attempts)
    return "every shape was tried"


def prune(teacher, task, records):
    """The teacher is pruned step by step while it is distilled (IPP), once; no network is shrunk."""
    student = student_of(teacher)
    pruned = prune_student(student, teacher.network, task, records, 1)
    if pruned is None:
        return "no pruned student met the objective"
    read_off(student, pruned, teacher.layer_sizes(), records, 1)
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
        if met := bool(score > task.config["evaluation"]["objective"]):
            break
    _, network, rewards = best
    found = Distilled(network.get_weights(), met, part, rewards)
    record(records, step, network, [tried((), sum(student.layer_sizes(())), found)])
    return "linear policies by random search"


def record(records, step, network, attempts):
    """Tells the records of the only network of a step, whether or not it met the objective."""
    if attempts[-1]["met_objective"]:
        records.shrunk(step, network, attempts[-1]["widths"], attempts)
    else:
        records.failed(step, attempts, network)


METHODS = {
    "pops": pops_and_search,
    "search": search,
    "direct": direct,
    "prune": prune,
    "one_shot": one_shot,
    "ars": ars,
}
