"""Fuzz a reader of files with atheris, guided by the branches that it takes.

    python tests/fuzz/fuzz.py                       # all readers in turn, an hour in all
    python tests/fuzz/fuzz.py --seconds 600 policy  # one of them, ten minutes
    python tests/fuzz/fuzz.py --file crash-... policy

Atheris is installed by `pip install atheris` where it has a wheel. Inputs that found new branches stay
in `--corpus`, and one that ends in another error than pgcore's is written as `crash-...` beside it.
"""

# Atheris is in an environment of its own.
# pyright: reportMissingImports=false, reportMissingModuleSource=false, reportAttributeAccessIssue=false

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

# What a fuzzer must see of pgcore's branches; importing it uninstrumented would hide them.
INSTRUMENTED = ["pgcore", "pgcore_train", "tomllib", "json", "safetensors"]
# Bytes of an input, our choice: above those of every valid file.
LONGEST = 16_384
# Bytes of memory, in MiB, that no reader of such a file may take.
MEMORY = 2_048


def main() -> None:
    """Read the arguments, and fuzz one reader or each in a process of its own."""
    if "--file" not in sys.argv:
        import atheris

        with atheris.instrument_imports(include=INSTRUMENTED):
            import readers

            # Modules that are imported on first use are imported here.
            for name in readers.READERS:
                readers.seed_of(name)
    import readers

    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("readers", nargs="*", metavar="READER", help=", ".join(readers.READERS))
    parser.add_argument("--seconds", type=int, default=3600, help="of all readers together")
    parser.add_argument("--corpus", type=Path, default=Path(tempfile.gettempdir()) / "pgcore-fuzz")
    parser.add_argument("--file", type=Path, help="read this file once, and nothing else")
    options = parser.parse_args()
    names = options.readers or [*readers.READERS]
    if unknown := sorted(set(names) - set(readers.READERS)):
        parser.error(f"unknown readers: {', '.join(unknown)}; known: {', '.join(readers.READERS)}")
    if options.file is not None:
        with tempfile.TemporaryDirectory() as folder:
            result = readers.read(names[0], options.file.read_bytes(), Path(folder) / "file")
        sys.stdout.write(f"{result!r}\n")
    elif len(names) == 1:
        fuzz(names[0], options.seconds, options.corpus / names[0])
    else:
        share = ["--seconds", str(options.seconds // len(names)), "--corpus", str(options.corpus)]
        # The fuzzer ends its process, so that each reader needs one.
        codes = [subprocess.call([sys.executable, __file__, *share, name]) for name in names]
        sys.exit(max(codes))


def fuzz(name: str, seconds: int, corpus: Path) -> None:
    """Fuzz a reader, from a valid file of it and from what earlier calls found."""
    import atheris
    import readers

    corpus.mkdir(parents=True, exist_ok=True)
    (corpus / "valid").write_bytes(readers.seed_of(name))
    path = Path(tempfile.mkdtemp()) / "file"
    flags = [f"-max_total_time={seconds}", f"-max_len={LONGEST}", f"-rss_limit_mb={MEMORY}"]
    flags += [f"-artifact_prefix={corpus.parent}/{name}-", "-print_final_stats=1", str(corpus)]
    atheris.Setup([sys.argv[0], *flags], lambda content: readers.read(name, content, path) and None)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
