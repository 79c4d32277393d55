"""The search for the smallest network that does, where no step of PoPS leads further. It is not in the paper."""

import math

from pops.model import agents_of
from pops.prune import attempt
from pops.support.rewards import matches


def search_floor(teacher, task, records):
    """Looks for the smallest student that meets the objective; then, where one matches the teacher, for that one, too.

    A run that was ended by its number of steps is left as it is.

    Args:
        teacher: DQNAgent.
        task: Task.
        records: Records of the steps of PoPS.
    """
    steps = records.summary["steps"]
    cut_short = len(steps) == task.config["pops"]["steps"] and "shrunk" in steps[-1]
    if cut_short or not task.config["pops"]["floor"]:
        return
    search = Search(teacher, task, records)
    above, _ = records.smallest()
    smallest = min(sum(teacher.layer_sizes((1,) * depth)) for depth in teacher.depths())
    search.bisect("objective", above["widths"] if above else teacher.widths, smallest - 1)
    above, matching = records.smallest()
    if task.config["distill"]["until"] == "teacher":
        found = search.matching(matching["weights"] if matching else math.inf)
        if found or matching:
            search.bisect("teacher", found[0].widths if found else matching["widths"], above["weights"], found)


class Search:
    """Tries networks, none of them twice, and no more than `pops.floor` in all.

    Each starts with the same states of the teacher's games. The run's own replay memory is full of states to which students
    of the last steps fell, where so small a network learns less.

    Args:
        as for `search_floor`.

    Attributes:
        known: {widths: student and Distilled, or None where the objective was not met}.
        left: networks that may still be tried.
    """

    def __init__(self, teacher, task, records):
        self.teacher, self.records, self.known = teacher, records, {}
        self.task, self.left = task, task.config["pops"]["floor"]
        self.kind = agents_of(teacher.environment).student

    def matching(self, below):
        """Of the networks tried that have fewer weights than `below`, the smallest that matches the teacher, or None."""
        sizes = {widths: sum(found[0].layer_sizes()) for widths, found in self.known.items() if found}
        ordered = sorted((widths for widths in sizes if sizes[widths] < below), key=sizes.get)
        return next((self.known[widths] for widths in ordered if self._matches(*self.known[widths])), None)

    def bisect(self, goal, widths, low, found=None):
        """Bisects the number of weights, in the logarithm, between what does not do and the smallest student that does.

        For a number of weights it tries one shape for each number of hidden layers, the flattest first and up to one layer
        more than the smallest student that does, until one does. Where none does, it goes on above, else below.

        Args:
            goal: "objective", or "teacher" where a student has to match that, too.
            widths: of the smallest student so far that does.
            low: number of weights that are known not to do.
            found: that student and its Distilled, if no step has recorded it.
        """
        step, attempts = None, []
        larger = self.kind(self.teacher.settings, widths)
        high = sum(larger.layer_sizes())
        while high - low > 1:
            middle = min(high - 1, max(low + 1, round(math.sqrt(max(low, 1) * high))))
            for shape in shapes_between(low, middle, self.teacher):
                if len(shape) > len(widths) + 1 or (shape not in self.known and not self.left):
                    continue
                step = step or self.records.begin(larger, floor=goal)
                if shape not in self.known:
                    self.left -= 1
                    self.known[shape] = self._distilled(larger, shape, step, attempts)
                if self.known[shape] and (goal == "objective" or self._matches(*self.known[shape])):
                    found, widths = self.known[shape], shape
                    high = sum(larger.layer_sizes(widths))
                    break
            else:
                low = middle
        if found:
            step = step or self.records.begin(larger, floor=goal)
            student, distilled = found
            self.records.shrunk(step, student.plain_network("student", distilled.weights), widths, attempts)
        elif step:
            self.records.failed(step, attempts)

    def _distilled(self, larger, widths, step, attempts):
        if self.task.begun is None:  # not before a network has to be tried
            self.task = self.task.apart()
        student, distilled = attempt(larger, widths, self.task, step, attempts)
        return (student, distilled) if distilled.met else None

    def _matches(self, student, distilled):
        """Whether a student matches the teacher on the episodes that confirmed it, and on those that choose."""
        reference = self.task.reference
        if not matches(distilled.rewards, reference.confirm, reference.margin):
            return False
        network = student.plain_network("student", distilled.weights)
        return self.records.compared(network, "searched", *student.widths)["matches_teacher"]


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
