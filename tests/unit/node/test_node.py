from pathlib import Path

from gangrun import node


def test_all_of_the_pool_is_packed() -> None:
    folder = Path(node.__file__).parent / "pool"
    assert {f"pool/{file.name}" for file in folder.glob("*.py")} == set(node.POOL)
    assert b"def main" in node.source("pool/driver.py")
