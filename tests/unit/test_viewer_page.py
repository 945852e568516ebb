"""The page's file: one, closed to the network, deaf to what a model wrote, and its data whole."""

import base64
import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.errors import DataError
from biomni_lib.viewer import page as page_module
from biomni_lib.viewer.page import CHUNK, fill, pack, render_page, unpack
from biomni_lib.viewer.records import Entry, record
from tests.toy_trajectories import HOSTILE, SOLVED, TASK, Elements, data_of, question, rolled

JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


TURN = f"<think>{HOSTILE}</think><execute>{HOSTILE}</execute>"


def hostile_page(**changed):
    entries = [Entry(rolled(0, HOSTILE, texts=(TURN, SOLVED), observation=HOSTILE, ending=f"error:{HOSTILE}"), HOSTILE)]
    asked = {(TASK, "toy-heldout-0"): question(0, prompt=HOSTILE)}
    return render_page(
        entries, asked, title=changed.get("title", HOSTILE), systems={TASK: HOSTILE}, about={"notes": [HOSTILE]}
    )


@given(value=JSON)
def test_packed_values_come_back_and_hold_no_markup(value):
    packed = pack(value)
    assert re.fullmatch(r"[A-Za-z0-9+/]+=*", packed)
    assert unpack(packed) == value


def test_hostile_text_is_nowhere_in_the_file_and_whole_in_its_data():
    html = hostile_page()
    assert "window.hacked" not in html.replace("&lt;script&gt;window.hacked = 1&lt;/script&gt;", "").replace(
        "onerror=&quot;window.hacked", ""
    )
    assert [name for name, _, _ in Elements(html).found].count("script") == len(data_of(html)) + 1
    assert not any(key.startswith("on") for _, attributes, _ in Elements(html).found for key in attributes)
    data = data_of(html)
    turn = data["chunk-0"]["records"][0]["turns"][0]
    assert turn["pieces"] == [["think", HOSTILE], ["execute", HOSTILE]] and turn["observation"] == HOSTILE
    assert data["chunk-0"]["questions"]["0"]["prompt"] == HOSTILE
    assert data["index"]["title"] == data["index"]["systems"][TASK] == HOSTILE


def test_the_policy_lets_the_page_run_its_own_script_and_reach_nothing():
    elements = Elements(hostile_page())
    policy = next(a["content"] for a, _ in elements.of("meta") if a.get("http-equiv") == "Content-Security-Policy")
    script = next(text for a, text in elements.of("script") if a.get("type") == "module")
    style = elements.of("style")[0][1]
    for rule, text in (("script-src", script), ("style-src", style)):
        digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
        assert f"{rule} 'sha256-{digest}'" in policy
    assert policy.startswith("default-src 'none'")
    assert "unsafe" not in policy and "http" not in policy


def test_the_file_needs_no_other():
    html = hostile_page()
    assert not re.search(r"https?://|//cdn|@import|url\(", html)
    assert not any(key in ("src", "href") for _, attributes, _ in Elements(html).found for key in attributes)


def test_rows_records_and_questions_belong_together_across_chunks():
    entries = [
        Entry(rolled(n, model, sample=s), f"evaluate/{model}")
        for n in range(30)
        for model in ("sft", "rl")
        for s in range(2)
    ]
    asked = {(TASK, i.id): i for i in map(question, range(30))}
    html = render_page(entries[::-1], asked, title="t")
    data = data_of(html)
    rows, chunks = data["index"]["rows"], [data[f"chunk-{n}"] for n in range(len(data) - 1)]
    assert len(chunks) == -(-len(entries) // CHUNK)
    by_id = {entry.id: entry for entry in entries}
    assert sorted(rows["id"]) == sorted(by_id)
    for place, name in enumerate(rows["id"]):
        chunk = chunks[place // CHUNK]
        assert chunk["records"][place % CHUNK] == record(by_id[name])
        assert chunk["questions"][str(rows["question"][place])]["prompt"] == "Which gene?"
    first = [rows["id"][place] for place in range(4)]
    assert first == [f"evaluate/{m}/toy/toy-heldout-0/{s}" for m in ("sft", "rl") for s in range(2)]


def test_the_same_trajectories_give_the_same_bytes():
    entries = [Entry(rolled(n), "evaluate/rl") for n in range(3)]
    assert render_page(entries, {}, title="t") == render_page(entries[::-1], {}, title="t")


def test_trajectories_of_one_name_are_told_apart():
    twice = [Entry(rolled(0), "rl/step-00001")] * 2
    assert data_of(render_page(twice, {}, title="t"))["index"]["rows"]["id"] == [
        "rl/step-00001/toy/toy-heldout-0/0",
        "rl/step-00001/toy/toy-heldout-0/0~2",
    ]


def test_a_template_is_filled_once():
    assert fill("a {{ x }} b {{ y }}", {"x": "{{ y }}", "y": "1"}) == "a {{ y }} b 1"


def test_nothing_to_show_and_too_much_to_show_are_said(monkeypatch):
    with pytest.raises(DataError, match="no trajectory to show"):
        render_page([], {}, title="t")
    monkeypatch.setattr(page_module, "BYTES_MAX", 2000)
    many = [Entry(rolled(n), "evaluate/rl") for n in range(3 * CHUNK)]
    with pytest.raises(DataError, match=r"after \d+ of 192 trajectories.*--source, --task or --model"):
        render_page(many, {}, title="t")
