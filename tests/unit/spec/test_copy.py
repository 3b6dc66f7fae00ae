"""Paths of a repository in its copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from gangrun.spec.copy import Copy


def copy(*files: str, project: str = "/home/ada/repo") -> Copy:
    parents = {str(parent) for file in files for parent in Path(file).parents}
    return Copy("/home/ada/repo", project, "/out/.code/T", "T", "C", False, frozenset(files) | parents)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("train.py", "train.py"),
        ("/home/ada/repo/train.py", "/out/.code/T/train.py"),
        ("/home/ada/repo", "/out/.code/T"),
        ("/home/ada/repo/", "/out/.code/T"),
        ("--config=/home/ada/repo/src/a b.yaml", "--config=/home/ada/repo/src/a b.yaml"),
        ("/home/ada/repo/src/a b.yaml", "/out/.code/T/src/a b.yaml"),
        ("--config=/home/ada/repo/train.py", "--config=/out/.code/T/train.py"),
        ("/home/ada/repo/src:/home/ada/repo/data:/x", "/out/.code/T/src:/home/ada/repo/data:/x"),
        (
            "cd '/home/ada/repo/src'; python /home/ada/repo/train.py",
            "cd '/out/.code/T/src'; python /out/.code/T/train.py",
        ),
        ("/home/ada/repo/data/big.npy", "/home/ada/repo/data/big.npy"),
        ("/home/ada/repo2/train.py", "/home/ada/repo2/train.py"),
        ("/mnt/home/ada/repo/train.py", "/mnt/home/ada/repo/train.py"),
        ("/home/ada/repo/src/../train.py", "/out/.code/T/train.py"),
    ],
)
def test_paths_in_text(text: str, expected: str) -> None:
    assert copy("train.py", "src/a b.yaml").text(text) == expected


@pytest.mark.parametrize(
    ("word", "absent"),
    [
        ("data/x.npy", "data/x.npy"),
        ("--data=data/x.npy", "data/x.npy"),
        ("source .venv/bin/activate", ".venv/bin/activate"),
        ("train.py", ""),
        ("nowhere/x.npy", ""),
        ("data", ""),
        ("/etc/passwd", ""),
        ("0.5", ""),
    ],
)
def test_what_the_copy_lacks(tmp_path: Path, word: str, absent: str) -> None:
    for name in ("data/x.npy", ".venv/bin/activate", "train.py"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    made = Copy(str(tmp_path), str(tmp_path), "/out", "T", "", True, frozenset({"train.py", "."}))
    assert made.absent(word, str(tmp_path)) == absent


def test_what_can_be_imported() -> None:
    files = [
        "train.py",
        "setup.py",
        "pkg/__init__.py",
        "pkg/deep/a.py",
        "src/lib/a.py",
        "src/one.py",
        "tests/__init__.py",
    ]
    assert copy(*files).importable == (("pkg", "src/lib"), ("src/one.py", "train.py"))
    below = copy("a/src/lib/b.py", "src/other/c.py", project="/home/ada/repo/a")
    assert below.importable == (("a/src/lib",), ())
