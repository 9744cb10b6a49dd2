"""A file appears whole or not at all."""

from pathlib import Path

import pytest

from physzoo.core.files import replacing


def test_a_file_appears_in_a_folder_that_was_not_there(tmp_path: Path) -> None:
    target = tmp_path / "new" / "file.txt"
    with replacing(target) as beside:
        beside.write_text("whole")
        assert not target.exists()
    assert target.read_text() == "whole"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("stop", [OSError("no space left on device"), KeyboardInterrupt()])
def test_a_write_that_is_cut_off_leaves_what_was_there(tmp_path: Path, stop: BaseException) -> None:
    target = tmp_path / "file.txt"
    target.write_text("before")
    with pytest.raises(type(stop)), replacing(target) as beside:  # noqa: PT012
        beside.write_text("half")
        raise stop
    assert target.read_text() == "before"
    assert list(tmp_path.iterdir()) == [target]


def test_what_an_earlier_kill_left_is_written_over(tmp_path: Path) -> None:
    target = tmp_path / "file.txt"
    (tmp_path / ".file.txt.tmp").write_text("left by a kill, and longer")
    with replacing(target) as beside:
        beside.write_text("whole")
    assert target.read_text() == "whole"
    assert list(tmp_path.iterdir()) == [target]
