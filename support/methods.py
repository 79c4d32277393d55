"""The ways from a teacher to a small network: PoPS, and what it is compared with. The setting `pops.method` chooses one.

Each takes what `prune.pops` takes, tells the same records, and returns why it ended, in words.
"""

from pops.model import agents_of
from pops.prune import attempt, iterative_pruning_policy_distillation, pops, read_off, state_to_prune
from pops.support.floor import search_floor
from pops.utils import magnitude_mask


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


def student_of(teacher):
    """The student of the teacher's own shape."""
    return agents_of(teacher.environment).student(teacher.settings, teacher.widths)


METHODS = {"pops": pops_and_search, "search": search, "direct": direct, "prune": prune, "one_shot": one_shot}
