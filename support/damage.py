"""Damaged files: models and checkpoints are damaged in many ways, and what becomes of them is counted."""

import numpy as np

from pops.support.checkpoints import Checkpoints
from pops.support.errors import ConfigurationError, Damaged
from pops.support.files import ROOT
from pops.support.networks import read_network, save_network


def damage(path, generator, other):
    """Damages a file in one of several ways. Returns which."""
    content = bytearray(path.read_bytes())
    way = generator.choice(["truncated", "bit flipped", "overwritten", "zeros at the end", "swapped", "empty", "longer"])
    place = generator.randrange(len(content))
    if way == "truncated":
        del content[place:]
    elif way == "bit flipped":
        content[place] ^= 1 << generator.randrange(8)
    elif way == "overwritten":
        content[place : place + 64] = generator.randbytes(len(content[place : place + 64]))
    elif way == "zeros at the end":
        content[-min(len(content), 4096) :] = bytes(min(len(content), 4096))
    elif way == "swapped":
        content = other.read_bytes()
    elif way == "empty":
        content = b""
    else:
        content += generator.randbytes(generator.randrange(1, 100))
    changed = bytes(content) != path.read_bytes()
    path.write_bytes(content)
    return way if changed else damage(path, generator, other)


def check_damage(count, generator, folder):
    """Damages models, and checkpoints in the place of the newest and of both, `count` times each."""

    shipped = ROOT / "saved_models" / "cartpole" / "teacher.keras"
    network, other = read_network(shipped), ROOT / "saved_models" / "lunarlander" / "teacher.keras"
    model, ways = folder / "student.keras", {}
    broken = 0
    for _ in range(count):
        save_network(network, model)
        way = damage(model, generator, other)
        ways[way] = ways.get(way, 0) + 1
        try:
            read_network(model)
            print(f"model: {way}: not noticed")
            broken += 1
        except ConfigurationError as error:
            broken += str(model) not in str(error) or "\n" in str(error)
    print(f"models: {count} damaged ({', '.join(f'{n} {way}' for way, n in sorted(ways.items()))}), {broken} not refused")

    survived = refused = 0
    values = [{"weights": np.arange(index, index + 1000.0), "number": index} for index in range(2)]
    for number in range(count):
        checkpoints = Checkpoints(folder / f"checkpoint{number}", "this run")
        for value in values:
            checkpoints.write(value)
        foreign = Checkpoints(folder / f"foreign{number}", "another run")
        foreign.write(values[0])
        named = []
        damaged = checkpoints.paths()[-1:] if number % 2 else checkpoints.paths()
        for path in damaged:
            damage(path, generator, foreign.paths()[0])
        try:
            found = Checkpoints(checkpoints.folder, "this run").read(lambda path, _, named=named: named.append(path))
            survived += found["number"] == 0 and np.array_equal(found["weights"], values[0]["weights"]) and number % 2
        except Damaged:
            refused += number % 2 == 0
        broken += set(named) != set(damaged)
    broken += count - survived - refused
    print(
        f"checkpoints: {count} times damaged: {survived} times the one before was used, {refused} times both were refused"
    )
    return broken
