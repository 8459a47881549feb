"""The page on episodes and batches shows what works."""

import re
from pathlib import Path

import numpy as np

PAGE = Path(__file__).parents[3] / "docs/data.md"


def test_the_code_of_the_page_runs(capsys):
    names = {}
    blocks = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    assert len(blocks) == 5
    for block in blocks:
        exec(compile(block, "data.md", "exec"), names)
    printed = capsys.readouterr().out.splitlines()
    assert printed == [
        "[1. 3. 2.] [2 1] [2. 6.]",
        "[2 3] [[ 0.  1.  0.  0.]",
        " [ 0.  0.  0. -1.]]",
        "(3, 2) (2, 8, 8)",
    ]
    assert names["advantages"].shape == (64, 2)
    # Gymnasium's default resets in rows of their own: some were left out, and have no advantage.
    advantages = names["advantages"]
    assert 100 < np.count_nonzero(advantages) < advantages.size
