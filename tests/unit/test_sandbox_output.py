"""The output cut by head and tail, and the text of untrusted processes."""

import os
import tempfile

from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.sandbox.observation import clean_text
from biomni_lib.sandbox.output import BoundedOutput, collect_raw, cut_middle


@given(st.lists(st.text(max_size=300), max_size=20), st.integers(16, 400))
def test_text_stays_within_the_limit_and_whole_when_it_fits(parts, limit):
    output = BoundedOutput(limit)
    for part in parts:
        assert output.write(part) == len(part)
    whole = "".join(parts)
    assert len(output.text()) <= limit
    assert output.truncated == (len(whole) > limit)
    if len(whole) <= limit:
        assert output.text() == whole


def test_cut_keeps_head_and_tail_and_states_the_characters_cut():
    whole = "".join(f"{number:05d}" for number in range(1000))
    text, cut = cut_middle(whole, 200)
    head, notice, tail = text.partition("\n[... ")[0], text.split("[... ")[1].split(" ")[0], text.split("...]\n")[1]
    assert cut and whole.startswith(head) and whole.endswith(tail) and len(head) > 50 and len(tail) > 50
    assert int(notice) == len(whole) - len(head) - len(tail)


def test_a_cut_does_not_depend_on_how_the_text_was_written():
    whole = "".join(f"{number:05d}" for number in range(1000))
    output = BoundedOutput(200)
    for start in range(0, len(whole), 7):
        output.write(whole[start : start + 7])
    assert (output.text(), output.truncated) == cut_middle(whole, 200)


def test_what_children_wrote_is_collected_once_and_read_only_at_its_ends():
    output = BoundedOutput(100)
    with tempfile.TemporaryFile() as file:
        os.write(file.fileno(), b"a" * 500 + b"\xff" + b"b" * 500)
        collect_raw(file.fileno(), output, 100)
        assert os.fstat(file.fileno()).st_size == 0
        collect_raw(file.fileno(), output, 100)
    assert output.text().startswith("aaa") and output.text().endswith("bbb")
    assert "characters cut" in output.text() and len(output.text()) <= 100


@given(st.text(alphabet=st.characters(codec=None), max_size=100))
def test_untrusted_text_becomes_valid_unicode(text):
    cleaned, _ = clean_text(text + "\ud800", 1000)
    cleaned.encode("utf-8")
