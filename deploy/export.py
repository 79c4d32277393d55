"""Exporting: a policy is written for another runtime and checked right away."""

from pops.configs import is_atari
from pops.deploy.c import FLAGS, CompiledPolicy, c_compiler, c_header
from pops.deploy.check import check_actions, check_numbers, check_reward
from pops.deploy.litert import CALIBRATION, litert_runtime, write_litert
from pops.deploy.onnx import onnx_runtime, write_onnx
from pops.support.console import log
from pops.support.errors import RunFailed
from pops.support.files import make_folder, replacing
from pops.support.states import played_observations


def export(policy, path, seeds, out, format, int8=False, count=1000, episodes=None):
    """Writes a policy as a file, which replaces one of that name when it has passed the check.

    Args:
        policy: Policy; path: of its file.
        seeds: Seeds of what it plays.
        out: Path of the file.
        format: "c", "litert" or "onnx"; int8: see the writers.
        count: observations on which its actions are compared with the policy's.
        episodes: that it plays; 100 if left out, or 10 of an Atari game.

    Raises:
        RunFailed: it cannot be written, or does not act or play as the policy does, or there is no C compiler to check it.
    """
    make_folder(out.parent)
    network, config = policy.network, policy.config
    bounds, episodes = config["model"]["bounds"], episodes or (10 if is_atari(config["environment"]) else 100)
    observations, outputs = played_observations(network, config, seeds, count, "check")
    with replacing(out) as temporary:
        if format == "litert":
            examples = played_observations(network, config, seeds, CALIBRATION, "calibrate")[0] if int8 else None
            write_litert(network, temporary, examples)
            run = litert_runtime(temporary)
        elif format == "onnx":
            write_onnx(network, temporary)
            run = onnx_runtime(temporary)
        else:
            temporary.write_text(c_header(policy.stacked(path).network, network.name, out.stem, int8, bounds))
            compiler = c_compiler()
            run = CompiledPolicy(temporary, observations, outputs, compiler, bounds) if compiler else None
        if run:
            if bounds:
                check_numbers(run, observations, outputs, bounds, exact=not int8)
            else:
                check_actions(run, observations, outputs, exact=not int8)
            check_reward(run, network, config, seeds, episodes)
            if format == "c":
                log(f"time: {run.nanoseconds(observations):,.1f} ns an action ({' '.join([*compiler, *FLAGS])})")
    if not run:
        raise RunFailed(f"{out}: written but not checked, as there is no C compiler (cc, gcc, clang or $CC)")
