"""Files of any bytes: each reader returns something valid, or refuses by an error of pgcore's."""

import os
import tracemalloc

import pytest
import readers
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

# Cases of these properties and of those of the kit's strategies; PGCORE_FUZZ_CASES=100000 looks longer.
CASES = int(os.environ.get("PGCORE_FUZZ_CASES", "10000"))
# Bytes, our choice: a hundred times those that a file of this size needs.
MOST = 20_000_000

# No check that looks at the clock; a fixture of a module is the same for all cases.
CHECKS = [HealthCheck.too_slow, HealthCheck.function_scoped_fixture]

SEEDS = {name: readers.seed_of(name) for name in readers.READERS}
# Pieces that readers look for, in places where they do not expect them.
WORDS = (
    *(
        b'{"',
        b'":',
        b"null",
        b"[[",
        b"]",
        b"1e999",
        b"-1",
        b"NaN",
        b"\0",
        b"\xff\xfe",
        b"\n[",
        b" = ",
    ),
    *(b"F32", b"I64", b"BF16", b"BOOL", b"[0]", b"9999999999999999999", b'"format"', b"{}", b"'"),
)


@st.composite
def changed(draw, content):
    """Return a file's bytes with some of them changed, put in, repeated or left out."""
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.integers(0, 12)))
        piece = draw(st.one_of(st.binary(max_size=8), st.sampled_from(WORDS)))
        content = draw(
            st.sampled_from(
                [
                    content[:start] + piece + content[stop:],
                    content[:start] + piece + content[start + len(piece) :],
                    content[:start] + content[start:stop] * 3 + content[stop:],
                    content[:start],
                ]
            )
        )
    return content


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "file"


@pytest.mark.parametrize("name", readers.READERS)
def test_a_valid_file_is_read(name, path):
    assert readers.read(name, SEEDS[name], path) is not None


# A damaged text may hold an invalid escape, of which Python warns.
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("name", readers.READERS)
@pytest.mark.parametrize("watched", [False, True], ids=["content", "memory"])
def test_a_damaged_file_is_read_or_refused(name, path, watched):
    seed = SEEDS[name]
    # Watching every allocation takes several times as long.
    cases = int((0.01 if watched else 0.6) * CASES / len(SEEDS))

    @settings(max_examples=max(1, cases), suppress_health_check=CHECKS)
    @given(st.one_of(changed(seed), changed(seed), st.binary(max_size=64)))
    @example(b"")
    def check(content):
        readers.read(name, content, path)

    if watched:
        tracemalloc.start()
    try:
        check()
        peak = tracemalloc.get_traced_memory()[1] if watched else 0
    finally:
        tracemalloc.stop()
    assert peak < MOST


def test_a_fault_of_a_reader_is_seen(path, monkeypatch):
    monkeypatch.setitem(readers.READERS, "faulty", lambda path: path.read_bytes()[0])
    assert readers.read("faulty", b"x", path) == ord("x")
    with pytest.raises(IndexError):
        readers.read("faulty", b"", path)
