"""The records of PoPS: what a run reports, saves and sums up of each network as it comes."""

from pops.support.console import log
from pops.support.errors import RunFailed
from pops.support.playing import evaluate_network, report_rewards, varied
from pops.support.rewards import matches, reward_line, rewards_text
from pops.train import Task
from pops.utils import count_weights


def choosing_rewards(network, config, seeds, run, *purpose):
    """Rewards that tell whether a student matches the teacher. Not those that are reported, which choose nothing."""
    episodes, purpose = config["evaluation"]["choose_episodes"], ("choose", *purpose)
    return run.once_watched(purpose, evaluate_network, network, config, seeds, episodes, "confirm", *purpose)


def new_task(teacher, original_weights, config, seeds, run, name):
    """The Task of a run whose students learn from this teacher; where the settings say so, with a replay filled already.

    Args:
        teacher: plain Keras network, or a TeacherFunction.
        original_weights: number of weights of the original student.
        name: of the teacher in the run's memory.
    """
    rewards = choosing_rewards(teacher, config, seeds, run, name)
    task = Task(config, seeds, teacher, rewards, original_weights, None, run)
    if not config["replay"]["refill"]:
        task = task._replace(replay=task.new_replay())
        if not run.include("replay", task.replay):
            task.replay.fill()
    return task


class Records:
    """Takes down what `pops` does: rewards over fresh episodes, model files, and the summary.

    Args:
        teacher: DQNAgent with trained weights.
        task: Task.

    Raises:
        RunFailed: the teacher does not meet the objective.
    """

    def __init__(self, teacher, task):
        self.task, self.networks = task, {0: teacher.played}
        evaluation = task.config["evaluation"]
        log(f"PoPS: a teacher of {task.original_weights:,} weights")
        report = self.report(teacher.played, "teacher") | self.other_ways(teacher.played, "teacher")
        if report["reward_mean"] <= evaluation["objective"]:
            raise RunFailed(
                f"the teacher's reward, {rewards_text(report)}, is not above the objective, "
                f"{evaluation['objective']}; train it further or lower evaluation.objective"
            )
        goal = {key: evaluation[key] for key in ("objective", "lower_bound")}
        self.summary = {**goal, "teacher": {"widths": teacher.widths, **report}, "steps": []}
        task.run.save_model("teacher.keras", teacher.played)

    def started(self, step, student):
        """A PoPS step begins with this student."""
        self.start = self.task.run.once(("started", step), self.task.run.seconds)
        self.widths = student.widths

    def pruned(self, step, network, redundancy, live_units):
        """IPP gave this network."""
        self.task.run.save_model(f"pruned_step_{step}.keras", network)
        entry = {
            "step": step,
            "from_widths": self.widths,
            "pruned": self.report(network, "pruned", step),
            "redundancy": [round(float(r), 6) for r in redundancy],
            "live_units": live_units,
        }
        self.summary["steps"].append(entry)
        log(f"step {step}: pruned to {reward_line(entry['pruned'])}")

    def failed(self, step, attempts):
        """No smaller student met the objective."""
        self.summary["steps"][-1] |= {"attempts": attempts, "seconds": self._seconds(step)}

    def shrunk(self, step, network, widths, attempts):
        """Distillation gave this network, of these widths, after these attempts."""
        task, entry = self.task, self.summary["steps"][-1]
        self.networks[step] = network
        task.run.save_model(f"student_step_{step}.keras", network)
        rewards = choosing_rewards(network, task.config, task.seeds, task.run, "shrunk", step)
        entry["attempts"] = attempts
        entry["matches_teacher"] = matches(rewards, task.teacher_rewards)
        entry["shrunk"] = {"widths": widths, **self.report(network, "shrunk", step)}
        entry["seconds"] = self._seconds(step)
        shape = "-".join(map(str, widths))
        log(f"step {step}: shrunk to {shape}, {reward_line(entry['shrunk'])}, {entry['seconds']} s")
        task.run.save_summary(self.summary)

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

    def report(self, network, *purpose):
        """Size and rewards of a plain network."""
        weights, nonzero = count_weights(network)
        size = {"weights": weights, "nonzero": nonzero, "percent": 100 * weights / self.task.original_weights}
        return size | self._reported(network, self.task.config, purpose)

    def other_ways(self, network, *purpose):
        """Rewards of a plain network in the other ways to play that the settings name: {name: rewards}."""
        config = self.task.config
        return {name: self._reported(network, varied(config, name), purpose, name) for name in config["evaluation"]["also"]}

    def _reported(self, network, config, purpose, *way):
        episodes, whole = config["evaluation"]["report_episodes"], ("report", *purpose, *way)
        return self.task.run.once_watched(whole, report_rewards, network, config, self.task.seeds, episodes, *purpose)


def choices(summary):
    """The smallest student above the objective; the smallest one that matches the teacher; and of these the final one.

    That is the one that matches the teacher, where there is one.
    """
    shrunk = [entry for entry in summary["steps"] if "shrunk" in entry]
    matching = [entry for entry in shrunk if entry["matches_teacher"]]

    def last(entries):
        if entries:
            return {
                "file": f"student_step_{entries[-1]['step']}.keras",
                "step": entries[-1]["step"],
                **entries[-1]["shrunk"],
            }
        return None

    above, matching = last(shrunk), last(matching)
    final = matching or above or {"step": 0, **summary["teacher"]}
    return {
        "smallest_above_objective": above,
        "smallest_matching_teacher": matching,
        "final": final | {"file": "student.keras"},
    }
