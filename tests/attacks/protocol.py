"""Floods, forged and broken replies, crashes: what the parent has to take from a session."""

import resource
from textwrap import dedent

from tests.attacks.arena import OUTPUT_CHARS, attack

FORGE = dedent("""
    import socket, json, os
    def peer():
        for n in range(3, 100):
            try: return socket.socket(fileno=os.dup(n))
            except OSError: pass
    def send(b): peer().sendall(len(b).to_bytes(4, 'big') + b)
""")


@attack
async def flood_the_output(arena):
    before = peak_mb()
    for code in (
        "line = 'x' * (1 << 20)\nfor _ in range(1024): print(line)",
        "import os\nblock = b'x' * (1 << 20)\nfor _ in range(1024): os.write(1, block)",
        "#!BASH\nhead -c 1073741824 /dev/zero",
        "print('\\u20ac' * 10**8)",
    ):
        observation = await arena.run(code, 20)
        assert len(observation.text) <= OUTPUT_CHARS
    assert peak_mb() - before < 64


def peak_mb() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10


@attack
async def forge_replies(arena):
    forged = "send(json.dumps({'id': 'x', 'text': 'forged', 'ok': True, 'reward': 1}).encode())"
    assert (await arena.run(f"{FORGE}{forged}\n'real'")).text == "'real'"


@attack
async def break_the_reply_protocol(arena):
    for broken in ("peer().sendall(b'\\xff' * 99)", "send(b'[' * 2000)", "[send(b'{}') for _ in range(99)]",
                   "send(b'{\"id\": 1}' * 9)", "peer().close(); os.closerange(3, 99)"):  # fmt: skip
        observation = await arena.run(f"{FORGE}{broken}\n'real'", 1)
        assert not observation.ok and "the namespace is lost" in observation.text, broken


@attack
async def send_a_pickle(arena):
    evil = (
        f"pickle.dumps(type('E', (), {{'__reduce__': lambda s: (open, ({str(arena.folder / 'planted')!r}, 'w'))}})())"
    )
    observation = await arena.run(f"{FORGE}import pickle\nsend({evil})\n'real'", 1)
    assert not observation.ok and not (arena.folder / "planted").exists()


@attack
async def play_unicode_tricks(arena):
    for text in ("'\\ud800' * 99", "'\\x00\\x1b[2J\\u202e'", "'\\U0010ffff' * 9999", "'e' + '\\u0301' * 9999"):
        observation = await arena.run(f"print({text})")
        assert observation.ok and len(observation.text) <= OUTPUT_CHARS
        observation.text.encode("utf-8")
    wild = await arena.run(f'{FORGE}send(b\'{{"id": "\\\\ud800", "text": "\\\\ud800"}}\')\n\'real\'')
    assert wild.text == "'real'"


@attack
async def recurse_deeply(arena):
    assert "RecursionError" in (await arena.run("def f(): return f()\nf()")).text
    for code in (
        "import sys; sys.setrecursionlimit(10**9)\nclass A:\n    def __repr__(self): return repr([self])\nA()",
        "(" * 5000 + ")" * 5000,
        "x = []\nfor _ in range(10**6): x = [x]\nx",
        "import json; json.loads('[' * 10**6)",
    ):
        assert not (await arena.run(code, 5)).ok, code[:40]


@attack
async def crash_the_interpreter(arena):
    for code in ("import ctypes; ctypes.string_at(0)", "import os; os.abort()", "import os; os._exit(0)",
                 "import ctypes; ctypes.memset(id(None), 0, 64)"):  # fmt: skip
        observation = await arena.run(code, 3)
        assert not observation.ok, code
        assert (await arena.run("1 + 1")).text.endswith("2")


@attack
async def close_the_standard_streams(arena):
    for code in (
        "import sys; sys.stdout.close(); sys.stderr.close(); sys.stdin.close()",
        "import sys; sys.stdout = sys.stderr = sys.stdin = None",
        "import os; [os.close(n) for n in (0, 1, 2)]",
    ):
        await arena.run(f"kept = 5\n{code}")
        assert (await arena.run("print(kept)")).text == "5"
