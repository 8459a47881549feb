"""Templates of projects, which are the example projects, and their copies under other names."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

from pgcore.errors import FileError

__all__ = ["TEMPLATES", "class_name", "copy_template", "template_folder"]

# The example project of each kind.
TEMPLATES = {
    "estimator": "vanilla",
    "part": "spo",
    "head": "laplace",
    "optimizer": "lion",
    "backend": "hips",
    "logger": "journal",
}

# Files and folders that tools leave behind in a project, such as an installer's bytecode.
LEFT_BEHIND = shutil.ignore_patterns(
    "__pycache__", ".*_cache", ".hypothesis", ".venv", ".coverage", "build", "dist", "*.egg-info"
)


def template_folder(kind: str) -> Path:
    """Return the folder of a kind's example project, of the wheel or of the checkout."""
    package = Path(__file__).parent
    # The wheel holds the projects inside this package, an editable install where they are written.
    installed = package / "templates"
    folder = installed if installed.is_dir() else package.parents[1] / "examples" / "plugins"
    return folder / TEMPLATES[kind]


def class_name(name: str) -> str:
    """Return the class's name for a module's, such as MyIdea for my_idea."""
    return "".join(word[:1].upper() + word[1:] for word in name.split("_"))


def copy_template(kind: str, name: str, folder: Path) -> None:
    """Write a kind's project under another name, whole or not at all.

    Args:
        kind: One of `TEMPLATES`.
        name: Of the module, the distribution and the registered object.
        folder: The new project's; it must not exist.

    Raises:
        FileError: the folder exists, or cannot be written.
    """
    if folder.exists() or folder.is_symlink():
        raise FileError(f"{folder}: expected a new folder, got one that exists; choose another")
    try:
        # Renamed when it is complete, within one file system.
        with TemporaryDirectory(prefix=f".{name}.", dir=folder.absolute().parent) as temporary:
            project = Path(temporary) / name
            shutil.copytree(template_folder(kind), project, ignore=LEFT_BEHIND)
            rename(project, TEMPLATES[kind], name)
            project.rename(folder)
    except OSError as error:
        raise FileError(
            f"{folder}: expected a folder that can be written, got {error.strerror}; "
            "choose another with --folder"
        ) from error


def rename(project: Path, old: str, new: str) -> None:
    """Exchange a name in all files of a project and in their paths."""
    # Whole words in lower case; a class's name may go on, as in HipsPolicy.
    words = {rf"(?<![A-Za-z]){old}(?![a-z])": new}
    words[rf"(?<![A-Za-z]){class_name(old)}(?![a-z])"] = class_name(new)
    for path in sorted(project.rglob("*"), reverse=True):
        if path.is_file():
            text = path.read_text(encoding="utf-8")
            for pattern, word in words.items():
                text = re.sub(pattern, word, text)
            path.write_text(text, encoding="utf-8")
        # Contents come before their folder in reversed order.
        if path.stem == old:
            path.rename(path.with_name(new + path.suffix))
