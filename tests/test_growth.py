"""bench.py --growth: its steps and its graph."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest
from PIL import Image

from pops.support.growth import COLUMNS, draw, slope, step


def test_the_graph_shows_sizes_members_and_cores(tmp_path):
    dense = [("cartpole", weights, 8, 2, weights / 1000, 500.0) for weights in (10**3, 10**4, 10**5, 10**6)]
    others = [("pong", 10**6, 2, 2, 30.0, 2000.0), ("pong", 2 * 10**6, 2, 2, 120.0, 3000.0)]
    rows = [*dense, *others, ("cartpole", 10**5, 64, 2, 800.0, 500.0), ("cartpole", 10**6, 8, 1, 1900.0, 500.0)]
    assert slope(dense, COLUMNS.index("seconds")) == pytest.approx(1)
    assert slope(others, COLUMNS.index("seconds")) == pytest.approx(2)
    draw(rows, tmp_path / "growth.png")
    assert Image.open(tmp_path / "growth.png").size == (1350, 960)


@pytest.mark.slow
def test_a_step_is_made_in_a_process_of_its_own_on_so_many_cores():
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        row = process.submit(step, "cartpole", (9, 9), 1, 1).result()
    assert row[:4] == ("cartpole", 4 * 9 + 9 * 9 + 9 * 2, 1, 1)
    assert row[4] > 0 and not row[5] < 100
