"""The sandbox's command line: `python -m biomni_lib.sandbox serve` runs the environment server."""

import asyncio
import contextlib
import signal
import sys
from typing import Annotated

import typer

from biomni_lib.config import RunConfig, load_config, parse_setting
from biomni_lib.errors import BiomniError
from biomni_lib.sandbox.gate import TOKEN, read_token

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)


@app.callback()
def commands() -> None:
    """The sandbox as a service of its own, apart from the processes that generate tokens."""


@app.command()
def serve(
    host: Annotated[str, typer.Option(help=f"Address to listen on; any but loopback needs {TOKEN}.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port; 0 takes a free one and prints it.", min=0, max=65535)] = 8765,
    preset: Annotated[str, typer.Option(help="Limits of sessions and of the server.")] = "cpu",
    runs_root: Annotated[str, typer.Option(help="Folder with the lake.", envvar="BIOMNI_RUNS_ROOT")] = "runs",
    changed: Annotated[
        list[str] | None, typer.Option("--set", help="A setting, such as environment.idle_s=600; may be repeated.")
    ] = None,
) -> None:
    """Serve sessions over HTTP until Ctrl-C or SIGTERM."""
    config = load_config(preset, runs_root=runs_root, **dict(parse_setting(text) for text in changed or []))
    asyncio.run(_serve(config, host, port))


async def _serve(config: RunConfig, host: str, port: int) -> None:
    from biomni_lib.sandbox.server import serve

    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with contextlib.suppress(asyncio.CancelledError):
        await serve(
            config,
            host=host,
            port=port,
            token=read_token(),
            lake_dir=config.lake_dir,
            on_start=lambda url: print(f"environment server: {url}", flush=True),
        )


def main() -> None:
    """Run the command line; a failure is one line on stderr and exit status 1."""
    try:
        app()
    except BiomniError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
