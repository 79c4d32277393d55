"""Conversion by Keras's own exporter, for the targets that it knows."""

from pops.support.console import quiet
from pops.support.errors import RunFailed, one_line


def convert(network, path, format, **options):
    """Writes a Keras network as a file of another runtime.

    Raises:
        RunFailed: it cannot be converted.
    """
    failure = None
    with quiet():  # converters print much
        try:
            network.export(str(path), format=format, verbose=False, **options)
        except Exception as error:  # of many kinds
            failure = one_line(error, 300)
    if failure is not None:
        raise RunFailed(f"{network.name}: cannot be converted to {format} ({failure})")


def with_actions(outputs):
    """Outputs [n, actions] and the actions with the largest ones [n], what every runtime here gives."""
    return outputs, outputs.argmax(-1)
