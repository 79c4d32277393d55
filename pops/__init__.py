"""PoPS: policy pruning and shrinking for deep reinforcement learning.

In a clone the modules lie beside this folder, flat, as those of the paper do; in an installation they lie in it.
"""

from pathlib import Path

__version__ = "0.2.0"

_here = Path(__file__).resolve().parent
if not (_here / "prune.py").exists():
    __path__ = [str(_here), str(_here.parent)]

from pops.compress import compress  # noqa: E402  (its module imports nothing heavy)

__all__ = ["compress"]
