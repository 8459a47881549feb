"""PGCORE_REQUIRE_BACKENDS: a test that would be skipped for want of a required backend fails, wherever it asks for it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = "import pytest\nframework = pytest.importorskip('pgcore_absentframe.policy')\n"
INSIDE = "import pytest\ndef test_it():\n    pytest.importorskip('absentframe')\n"


@pytest.mark.parametrize("source", [MODULE, INSIDE], ids=["by a module", "in a test"])
@pytest.mark.parametrize(("required", "passes"), [("absentframe,numpy", False), ("numpy", True)])
def test_a_skip_is_a_failure_where_the_backend_is_required(tmp_path, source, required, passes):
    shutil.copy(Path(__file__).parents[1] / "conftest.py", tmp_path)
    (tmp_path / "test_one.py").write_text(source)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)]
    variables = {**os.environ, "PGCORE_REQUIRE_BACKENDS": required}
    done = subprocess.run(
        command, capture_output=True, text=True, env=variables, cwd=tmp_path, check=False
    )
    assert ("1 skipped" in done.stdout) == passes, done.stdout
    assert ("PGCORE_REQUIRE_BACKENDS: " in done.stdout) != passes
    assert (done.returncode in (0, 5)) == passes
