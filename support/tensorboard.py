"""A run's metrics for TensorBoard."""

import shutil

import tensorflow as tf


class Events:
    """A run's metrics as TensorBoard reads them.

    Args:
        folder: for the files; what is there is replaced.
        columns, rows: those of metrics.csv so far.
    """

    SCALARS = ("reward_mean", "reward_stderr", "sparsity", "nonzero", "loss", "learning_rate")

    def __init__(self, folder, columns, rows):
        shutil.rmtree(folder, ignore_errors=True)
        self.columns, self.rows = columns, 0
        self.writer = tf.summary.create_file_writer(str(folder))
        for row in rows:
            self.add(row)

    def add(self, row):
        """Adds a row of metrics.csv."""
        values = dict(zip(self.columns, row, strict=True))
        teacher = values["phase"] == "teacher"  # its steps are the environment's, the others those of PoPS
        name = "teacher" if teacher else f"step {values['step']}, {values['phase']}"
        self.rows += 1  # updates begin again with every size that is tried and every rollback
        with self.writer.as_default(step=int(values["step"]) if teacher else self.rows):
            for scalar in self.SCALARS:
                if values[scalar] != "":
                    tf.summary.scalar(f"{name}/{scalar}", values[scalar])
        self.writer.flush()

    def add_images(self, paths):
        """Adds PNG files."""
        with self.writer.as_default(step=0):
            for path in paths:
                tf.summary.image(path.stem, tf.io.decode_png(path.read_bytes(), channels=3)[None])
        self.writer.flush()
