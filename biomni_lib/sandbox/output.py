"""Output cut by head and tail while it is written, so that a flood costs neither memory nor time."""

import io
import os

_NOTICE = "\n[... {} characters cut ...]\n"
_NOTICE_CHARS = len(_NOTICE.format(10**12))


def cut_middle(text: str, limit: int) -> tuple[str, bool]:
    """The text within `limit` characters, its head and tail kept and the cut stated; whether it was cut."""
    output = BoundedOutput(limit)
    output.write(text)
    return output.text(), output.truncated


class BoundedOutput(io.TextIOBase):
    """A text stream that keeps the first and the last characters written to it.

    Args:
        limit: characters of `text()`, the notice of the cut included.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._tail_chars = max(0, limit - _NOTICE_CHARS) // 2
        self.clear()

    def clear(self) -> None:
        """Forget what was written."""
        self._head, self._tail, self._total = "", "", 0

    def write(self, text: str) -> int:
        """Take text in; never fails for lack of room."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        self._total += len(text)
        room = self._limit - len(self._head)
        self._head += text[:room]
        if len(text) > room:
            rest = text[max(room, len(text) - self._limit) :]
            self._tail = (self._tail + rest)[-self._limit :]
        return len(text)

    def skip(self, count: int) -> None:
        """Count characters that were left out in the middle."""
        if count > 0:
            self._total += count
            self._tail = ""

    @property
    def truncated(self) -> bool:
        """Whether more was written than `text()` shows."""
        return self._total > self._limit

    def text(self) -> str:
        """What was written, within the limit."""
        if not self.truncated:
            return (self._head + self._tail)[: self._limit]
        if self._limit <= _NOTICE_CHARS + 2:
            return self._head[: self._limit]
        tail = (self._head + self._tail)[-self._tail_chars :]
        head_chars = self._limit - _NOTICE_CHARS - self._tail_chars
        return self._head[:head_chars] + _NOTICE.format(self._total - head_chars - len(tail)) + tail

    def writable(self) -> bool:
        """True, as of a file opened for writing."""
        return True

    def close(self) -> None:
        """Stay open: user code may close its stdout, later blocks still print."""

    def fileno(self) -> int:
        """Descriptor 1, for child processes; what they write is collected after the block."""
        return 1

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """UTF-8."""
        return "utf-8"

    @property
    def buffer(self) -> io.RawIOBase:
        """A byte stream that ends in this text stream."""
        return _ByteView(self)


class _ByteView(io.RawIOBase):
    """The bytes side of a BoundedOutput."""

    def __init__(self, output: BoundedOutput) -> None:
        self._output = output

    def writable(self) -> bool:
        """True, as of a file opened for writing."""
        return True

    def write(self, data) -> int:  # type: ignore[no-untyped-def,override]
        """Take bytes in as UTF-8, replacing what is not."""
        raw = bytes(data)
        self._output.write(raw.decode("utf-8", "replace"))
        return len(raw)


def collect_raw(descriptor: int, output: BoundedOutput, limit: int) -> None:
    """Move what child processes wrote into a file behind stdout into `output`, and empty the file.

    Args:
        descriptor: of the file, open for reading and writing.
        limit: bytes read from either end of a longer file.
    """
    size = os.fstat(descriptor).st_size
    if size:
        output.write(os.pread(descriptor, min(size, limit), 0).decode("utf-8", "replace"))
        start = max(limit, size - limit)
        output.skip(start - limit)
        if size > limit:
            output.write(os.pread(descriptor, limit, start).decode("utf-8", "replace"))
        os.ftruncate(descriptor, 0)
