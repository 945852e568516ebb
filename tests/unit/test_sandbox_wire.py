"""Frames from processes that are not trusted."""

import asyncio
import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from biomni_lib.sandbox.wire import WireError, encode_frame, read_frame


def read(data: bytes, limit: int = 10_000) -> dict:
    async def body() -> dict:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        return await read_frame(reader, limit)

    return asyncio.run(body())


@given(st.dictionaries(st.text(max_size=5), st.text(alphabet=st.characters(codec=None), max_size=20), max_size=5))
def test_any_text_travels_unchanged(message):
    assert read(encode_frame(message)) == json.loads(json.dumps(message))


@pytest.mark.parametrize(
    "body", [b"", b"[1]", b"null", b"{", b"\xff\xfe", b"[" * 5000, b'{"a": 1}x', b"\x80\x04K\x01."], ids=repr
)
def test_a_body_that_is_no_object_is_refused(body):
    with pytest.raises(WireError):
        read(len(body).to_bytes(4, "big") + body)


def test_a_frame_over_the_limit_is_refused_before_it_is_read():
    with pytest.raises(WireError, match="over the limit"):
        read((1 << 31).to_bytes(4, "big"))


@given(st.binary(max_size=64))
def test_any_bytes_give_an_object_or_a_known_error(data):
    with contextlib.suppress(WireError, EOFError):
        assert isinstance(read(data, 64), dict)
