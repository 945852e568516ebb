"""Removing what hostile code leaves in its scratch folder."""

import os
import subprocess
import sys

import pytest

from biomni_lib.sandbox.removal import remove_tree

linux_only = pytest.mark.skipif(sys.platform != "linux", reason="opens folders by handle")


def test_a_folder_that_is_gone_is_no_fault(tmp_path):
    remove_tree(tmp_path / "gone")


def test_links_are_removed_and_what_they_lead_to_stays(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "file").write_text("kept")
    folder = tmp_path / "scratch"
    folder.mkdir()
    (folder / "to-folder").symlink_to(tmp_path / "kept")
    (folder / "to-file").symlink_to(tmp_path / "kept" / "file")
    os.link(tmp_path / "kept" / "file", folder / "hard")
    remove_tree(folder)
    assert not folder.exists() and (tmp_path / "kept" / "file").read_text() == "kept"


DEEP = """
import os, sys
os.chdir(sys.argv[1])
for number in range(40):
    os.mkdir(f"wide{number}", 0)
for _ in range(1500):
    os.mkdir("d"); os.chdir("d")
os.mkdir("locked"); open("locked/file", "w").close(); os.chmod("locked", 0)
"""


@linux_only
def test_depth_beyond_stack_and_path_length_and_locked_folders_do_not_matter(tmp_path):
    folder = tmp_path / "scratch"
    folder.mkdir()
    subprocess.run([sys.executable, "-c", DEEP, folder], check=True)
    remove_tree(folder)
    assert not folder.exists()


@linux_only
def test_a_file_that_cannot_be_removed_is_an_error(tmp_path):
    with pytest.raises(OSError):
        remove_tree(tmp_path.__class__("/proc/self/fd"))
