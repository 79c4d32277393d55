"""What is printed: lines, tables, and nothing of what libraries say."""

import contextlib
import os
import sys
import tempfile

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from pops.policies.formats import what_is

console = Console(highlight=False, soft_wrap=True, emoji=False)


def log(message):
    """Prints a line or a table."""
    console.print(message, markup=False)


def table(rows, title=None, words=1):
    """A table for the terminal, on a narrow one wider than it: columns would lose what is in them.

    Args:
        rows: of text, the headings first.
        words: columns, the first ones, that hold words; the others hold numbers.
    """
    headings, *rows = rows
    made = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, heading in enumerate(headings):
        made.add_column(heading, justify="left" if index < words else "right", no_wrap=True)
    for row in rows:
        made.add_row(*map(Text, row))  # which is measured as it is printed, brackets and all
    made.width = Measurement.get(console, console.options.update(max_width=1000), made).maximum
    return made


@contextlib.contextmanager
def quiet():
    """Holds back what C++ code prints to standard error; shows it after all if the block fails."""
    with tempfile.TemporaryFile() as held:
        sys.stderr.flush()
        kept = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except BaseException:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


def import_tensorflow(*policies):
    """Imports TensorFlow without what it prints about graphics processors that it does not find.

    Args:
        policies: what is read afterwards. If one of them is a file that PyTorch reads, that is imported first.
    """
    files = [policy for policy in policies if isinstance(policy, str | os.PathLike)]
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        if "tensorflow" not in sys.modules:
            # PyTorch's optimisers import it, which after TensorFlow crashes the process.
            with contextlib.suppress(ImportError):
                import triton  # noqa: F401
        if any(what_is(file) in ("a file of Stable-Baselines3", "a TorchScript module") for file in files):
            with contextlib.suppress(ImportError):  # its reader says how to install it
                import torch  # noqa: F401
        import tensorflow  # noqa: F401
