"""The records of PoPS: what a run reports, saves and sums up of each network as it comes."""

from pops.support.console import log
from pops.support.playing import evaluate_network, report_rewards, varied
from pops.support.rewards import Reference, matches, reward_line, shape_text, standard_error
from pops.support.spaces import INPUT_NAMES
from pops.train import Task, robustness
from pops.utils import count_weights

# In PoPS a pruned network is an intermediate result: no more episodes than this are played to report it.
PRUNED_EPISODES = 100

SHARING = ("pops", "prune")  # methods whose trainings share one memory of states; for the others see `Task.apart`


def choosing_rewards(network, config, seeds, run, *purpose):
    """Rewards that tell whether a student matches the teacher, on the same episodes for both. Not those that are reported,
    which choose nothing."""
    episodes = config["evaluation"]["choose_episodes"]
    return run.once_watched(("choose", *purpose), evaluate_network, network, config, seeds, episodes, "confirm", "choose")


def reference_of(policy, mean, aims, config, seeds, run):
    """The Reference of a run. `mean`: see there; `aims`: what `session.goal` gave."""
    settings, random, confirm, robust = config["distill"], aims["random"]["reward_mean"], None, {}
    episodes = {"students": settings["confirm_episodes"], "choose": config["evaluation"]["choose_episodes"]}
    if settings["confirm_episodes"] and (mean is not None or settings["until"] == "teacher"):
        arguments = policy, config, seeds, settings["confirm_episodes"], "confirm", "students"
        confirm = run.once_watched(("confirm", "teacher"), evaluate_network, *arguments)
    for way, share in config["evaluation"]["robust"].items():
        robust[way] = {}
        for which, count in episodes.items():
            arguments = policy, varied(config, way), seeds, count, "confirm", which
            rewards = run.once_watched(("confirm", "teacher", way, which), evaluate_network, *arguments)
            robust[way][which] = random + share * (rewards - random)
    choose = choosing_rewards(policy, config, seeds, run, "teacher")
    return Reference(mean, confirm, choose, aims["margins"]["of_the_way"], robust)


def reported(network, config, seeds, run, *purpose, way="", most=None):
    """Statistics of rewards over fresh episodes, which choose nothing.

    Args:
        way: to play, if not the configuration's own.
        most: episodes, if that is fewer than the settings say.
    """
    episodes, whole = config["evaluation"]["report_episodes"], ("report", *purpose, *([way] if way else []))
    episodes = min(episodes, most or episodes)
    return run.once_watched(whole, report_rewards, network, config, seeds, episodes, *purpose)


def new_task(teacher, reference, original_weights, config, seeds, run):
    """The Task of a run whose students learn from this teacher; where the settings say so, with a replay filled already.

    Args:
        teacher: plain Keras network, or a TeacherFunction.
        reference: Reference.
        original_weights: number of weights of the original student.
    """
    task = Task(config, seeds, teacher, reference, original_weights, None, run)
    if not config["replay"]["refill"] and config["pops"]["method"] in SHARING:
        task = task._replace(replay=task.new_replay())
        if not run.include("replay", task.replay):
            task.replay.fill()
    return task


class Records:
    """Takes down what `pops` does: rewards over fresh episodes, model files, and the summary.

    Args:
        teacher: DQNAgent with trained weights.
        task: Task.
        aims: what `session.goal` gave.
    """

    def __init__(self, teacher, task, aims):
        self.task, self.networks = task, {0: teacher.played}
        log(f"PoPS: a teacher of {task.original_weights:,} weights")
        report = self.report(teacher.played, "teacher") | self.other_ways(teacher.played, "teacher")
        names = INPUT_NAMES.get(task.config["environment"]["id"], [])
        names = names if [len(names)] == list(teacher.settings["observation_shape"]) else None
        self.summary = {**aims, "teacher": {"widths": teacher.widths, **report}, "input_names": names, "steps": []}
        task.run.save_model("teacher.keras", teacher.played)

    def started(self, step, student, what="started"):
        """A PoPS step begins with this student."""
        self.start = self.task.run.once((what, step), self.task.run.seconds)
        self.widths = student.widths

    def pruned(self, step, network, redundancy, live_units, inputs):
        """IPP gave this network, of whose magnitudes these shares pass through each input."""
        self.task.run.save_model(f"pruned_step_{step}.keras", network)
        most = PRUNED_EPISODES if self.task.config["pops"]["method"] == "pops" else None
        entry = {
            "step": step,
            "from_widths": self.widths,
            "pruned": self.report(network, "pruned", step, most=most),
            "redundancy": [round(float(r), 6) for r in redundancy],
            "live_units": live_units,
            "inputs": [float(f"{share:.4g}") for share in inputs],  # 0 only where there is no path
        }
        self.summary["steps"].append(entry)
        log(f"step {step}: pruned to {reward_line(entry['pruned'])}")

    def begin(self, student, **how):
        """Networks smaller than this student are tried without pruning, for a purpose. Returns the number of their step."""
        step = len(self.summary["steps"]) + 1
        self.started(step, student, "searched")
        self.summary["steps"].append({"step": step, "from_widths": self.widths, **how})
        return step

    def failed(self, step, attempts, network=None):
        """No smaller student met the objective. `network`: the best one, if it is to be reported even so."""
        if network is not None:
            report = self.report(network, "refused", step)
            self.summary["steps"][-1]["refused"] = {"widths": attempts[-1]["widths"], **report}
        self.summary["steps"][-1] |= {"attempts": attempts, "seconds": self._seconds(step)}

    def compared(self, network, *purpose):
        """How a plain network compares with the teacher: the difference, whether it matches, and how robust it is."""
        task = self.task
        rewards = choosing_rewards(network, task.config, task.seeds, task.run, *purpose)
        difference = rewards - task.reference.choose
        robust = task.run.once(("robust", *purpose), robustness, network, task, "choose")
        holds = all(kept["holds"] for kept in robust.values())
        return {
            "difference": {"mean": float(difference.mean()), "stderr": float(standard_error(difference))},
            "matches_teacher": holds and matches(rewards, task.reference.choose, task.reference.margin),
            **({"robust": robust} if robust else {}),
        }

    def shrunk(self, step, network, widths, attempts):
        """Distillation gave this network, of these widths, after these attempts."""
        task, entry = self.task, self.summary["steps"][-1]
        self.networks[step] = network
        task.run.save_model(f"student_step_{step}.keras", network)
        entry |= {"attempts": attempts, **self.compared(network, "shrunk", step)}
        entry["shrunk"] = {"widths": widths, **self.report(network, "shrunk", step)}
        entry["seconds"] = self._seconds(step)
        shape = shape_text(widths)
        log(f"step {step}: shrunk to {shape}, {reward_line(entry['shrunk'])}, {entry['seconds']} s")
        task.run.save_summary(self.summary)

    def smallest(self):
        """The smallest student above the objective, and the smallest that matches the teacher; None for either."""
        found = choices(self.summary)
        return found["smallest_above_objective"], found["smallest_matching_teacher"]

    def finish(self, ended):
        """Chooses the final student, writes it and the summary, and returns that. `ended`: why PoPS did, in words."""
        run, summary = self.task.run, self.summary
        for step in sorted({choice["step"] for choice in choices(summary).values() if choice} - {0}):
            summary["steps"][step - 1]["shrunk"] |= self.other_ways(self.networks[step], "shrunk", step)
        summary |= choices(summary) | {"ended": ended, "seconds": run.seconds()}
        run.save_model("student.keras", self.networks[summary["final"]["step"]])
        run.save_summary(summary)
        return summary

    def _seconds(self, step):
        return self.task.run.once(("seconds", step), lambda: round(self.task.run.seconds() - self.start, 1))

    def report(self, network, *purpose, most=None):
        """Size and rewards of a plain network. `most`: see `reported`."""
        weights, nonzero = count_weights(network)
        size = {"weights": weights, "nonzero": nonzero, "percent": 100 * weights / self.task.original_weights}
        return size | reported(network, self.task.config, self.task.seeds, self.task.run, *purpose, most=most)

    def other_ways(self, network, *purpose):
        """Rewards of a plain network in the other ways to play that the settings name: {name: rewards}."""
        config, most = self.task.config, self.task.config["evaluation"]["choose_episodes"]
        names = dict.fromkeys([*config["evaluation"]["also"], *config["evaluation"]["robust"]])
        ways = {name: varied(config, name) for name in names}
        return {
            name: reported(network, way, self.task.seeds, self.task.run, *purpose, way=name, most=most)
            for name, way in ways.items()
        }


def choices(summary):
    """The smallest student above the objective; the smallest one that matches the teacher; and of these the final one.

    That is the one that matches the teacher, where there is one.
    """
    shrunk = [entry for entry in summary["steps"] if "shrunk" in entry]
    matching = [entry for entry in shrunk if entry["matches_teacher"]]

    def smallest(entries):
        if entries:
            entry = min(reversed(entries), key=lambda entry: entry["shrunk"]["weights"])
            return {"file": f"student_step_{entry['step']}.keras", "step": entry["step"], **entry["shrunk"]}
        return None

    above, matching = smallest(shrunk), smallest(matching)
    final = matching or above or {"step": 0, **summary["teacher"]}
    return {
        "smallest_above_objective": above,
        "smallest_matching_teacher": matching,
        "final": final | {"file": "student.keras"},
    }
