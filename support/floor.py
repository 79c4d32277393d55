"""The search for the smallest network that does, where no step of PoPS leads further. It is not in the paper."""

import math
from itertools import islice

from pops.model import agents_of
from pops.prune import attempt


def search_floor(teacher, task, records):
    """Looks for the smallest student that meets the objective; then, where one matches the teacher, for that one, too.

    A run that was ended by its number of steps is left as it is. Each network starts from a replay memory of its own: the
    run's is full of states to which students of the last steps fell, where so small a network learns less.

    Args:
        teacher: DQNAgent.
        task: Task.
        records: Records of the steps of PoPS.
    """
    if len(records.summary["steps"]) == task.config["pops"]["steps"]:
        return
    task, tried = task._replace(replay=None), set()
    kind = agents_of(teacher.environment).student
    above, _ = records.smallest()
    smallest = min(sum(teacher.layer_sizes((1,) * depth)) for depth in teacher.depths())
    student = kind(teacher.settings, above["widths"] if above else teacher.widths)
    bisect(teacher, student, task, records, "objective", smallest - 1, tried)
    above, matching = records.smallest()
    if matching and task.config["distill"]["until"] == "teacher":
        student = kind(teacher.settings, matching["widths"])
        bisect(teacher, student, task, records, "teacher", above["weights"], tried)


def bisect(teacher, student, task, records, goal, low, tried):
    """Bisects the number of weights, in the logarithm, between what does not do and the smallest student that does.

    For a number of weights it tries one shape for each number of hidden layers, the flattest first, until one does. Where
    none does, it goes on above, else below. `pops.floor` is how many shapes it tries at most.

    Args:
        teacher: DQNAgent; no network has more layers.
        student: the smallest one so far that does.
        task: Task.
        records: Records.
        goal: "objective", or "teacher" where a student has to match that, too.
        low: number of weights that are known not to do.
        tried: widths that were tried before, which are not tried again; grows.
    """
    left, high, attempts = task.config["pops"]["floor"], sum(student.layer_sizes()), []
    while high - low > 1 and left:
        middle = min(high - 1, max(low + 1, round(math.sqrt(max(low, 1) * high))))
        shapes = (shape for shape in shapes_between(low, middle, teacher) if shape not in tried)
        for widths in islice(shapes, left):
            tried.add(widths)
            left -= 1
            if not attempts:
                step = records.begin_search(student, goal)
            smaller, distilled = attempt(student, widths, task, step, attempts)
            if distilled.met:
                matches = records.shrunk(step, smaller.plain_network("student", distilled.weights), widths, attempts)
                attempts = []
                if matches or goal == "objective":
                    high = sum(smaller.layer_sizes())
                    break
        else:
            low = middle
    if attempts:
        records.failed(step, attempts)


def shapes_between(low, high, agent):
    """For each number of hidden layers, the flattest first, widths with more than `low` and at most `high` weights."""
    for depth in agent.depths():
        shape = widest(depth, high, agent.layer_sizes)
        if shape is not None and sum(agent.layer_sizes(shape)) > low:
            yield shape


def widest(depth, most, count):
    """Widths of `depth` hidden layers with at most so many weights; None if there are none.

    First the narrowest layer is as wide as it can be, as all has to pass through it. What is left goes to the layers where
    a unit costs least.

    Args:
        count: widths -> number of weights of each layer.
    """

    def weights(widths):
        return sum(count(widths))

    def wider_by_one(widths):
        return ((*widths[:layer], units + 1, *widths[layer + 1 :]) for layer, units in enumerate(widths))

    widths = (1,) * depth
    if weights(widths) > most:
        return None
    if depth == 0:
        return widths
    while weights(wider := tuple(units + 1 for units in widths)) <= most:
        widths = wider
    while weights(wider := min(wider_by_one(widths), key=weights)) <= most:
        widths = wider
    return widths
