import struct
import subprocess
import sys

import numpy as np
import pytest

from pgcore_train.run.history import History
from pgcore_train.run.picture import draw

pytest.importorskip("matplotlib")


def size(png: bytes) -> tuple[int, int]:
    """Return a PNG's width and height."""
    assert png.startswith(b"\x89PNG\r\n\x1a\n")
    return struct.unpack(">II", png[16:24])


@pytest.mark.parametrize("episodes", [0, 1, 19, 20, 300])
def test_a_picture_of_any_number_of_episodes(episodes):
    returns = np.random.default_rng(0).normal(100.0, 10.0, episodes).tolist()
    history = History(returns=returns, finished_at=[50 * (k // 2) for k in range(episodes)])
    assert size(draw(history, "Somewhere-v0", 110.0)) == (960, 540)


def test_the_picture_shows_episodes_and_goal():
    history = History(returns=[1.0, 2.0, 3.0], finished_at=[10, 20, 30])
    plain = draw(history, "Somewhere-v0", None)
    assert plain == draw(history, "Somewhere-v0", None)
    assert plain != draw(history, "Somewhere-v0", 3.5)
    assert plain != draw(
        History(returns=[1.0, 2.0, 2.5], finished_at=[10, 20, 30]), "Somewhere-v0", None
    )


def test_drawing_leaves_no_state():
    # In a process of its own: whatever else ran in this one may have imported pyplot.
    program = (
        "import sys\n"
        "from pgcore_train.run.history import History\n"
        "from pgcore_train.run.picture import draw\n"
        "draw(History(), 'Somewhere-v0', None)\n"
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
