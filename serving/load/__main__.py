"""Puts a running service under load: how much it sustains, how long its answers take, what goes wrong.

    python -m serving.load http://127.0.0.1:8000 --texts outputs/prepare/sst2/data

1. Warm-up, then a closed loop of 1, 4, 16, 64 clients: what one client waits for, what all together get.
2. An open loop: the saturation, which is the highest rate that the service keeps up with (figures.py), by bisection.
3. The same at shares of it: latency percentiles counted from when a request was due (loops.py).

`load.json` holds every run, `load.png` the latency against the rate.
"""

import asyncio
import gc
import json
import sys
from collections.abc import Awaitable
from typing import Any

from pydantic import ValidationError
from pydantic_settings import CliApp

from serving.exported import ModelError
from serving.load import loops
from serving.load.client import Client
from serving.load.figures import find_saturation, kept_up, summarize
from serving.load.plot import plot_latency
from serving.load.settings import Load
from serving.load.texts import read_texts
from serving.settings import format_errors

Run = dict[str, Any]


async def measure_service(settings: Load) -> dict[str, Any]:
    """All runs, in order; rates and throughput in requests per second.

    Raises:
        ModelError: the service does not answer such requests, or keeps up with no rate.
    """
    async with Client(settings) as client:
        bodies = client.make_bodies(read_texts(settings.texts, settings.seed))
        await client.check_service(bodies[0])
        await loops.run_closed_loop(client.ask, bodies, max(settings.clients), settings.warmup)
        gc.collect()
        gc.freeze()  # else this process halts now and then to look for garbage, and its own halt is measured
        runs = [await _run_closed_loop(client, bodies, count) for count in settings.clients]
        found = {"settings": settings.model_dump(mode="json"), "requests": len(bodies), "runs": runs}
        rates = settings.rates

        async def keeps_up(rate: float) -> bool:
            runs.append(await _run_open_loop(client, bodies, rate))
            return kept_up(runs[-1], settings.limit_ms)

        if not rates:
            found["saturation"] = highest = await find_saturation(keeps_up, _most(runs))
            rates = [highest * share for share in settings.shares]
        for rate in rates:
            await keeps_up(rate)
    return found


def _most(runs: list[Run]) -> float:
    """Requests answered per second, in the best of the runs.

    Raises:
        ModelError: none was answered.
    """
    if found := max(run["per_second"] for run in runs):
        return found
    raise ModelError(
        f"of {runs[-1]['sent']} requests none was answered: {', '.join(runs[-1]['errors'])}; mend that first"
    )


async def _run_closed_loop(client: Client, bodies: list[bytes], clients: int) -> Run:
    seconds = client.settings.seconds
    samples = await _show_progress(loops.run_closed_loop(client.ask, bodies, clients, seconds), seconds)
    return _report({"loop": "closed", "clients": clients} | summarize(samples, seconds))


async def _run_open_loop(client: Client, bodies: list[bytes], rate: float) -> Run:
    settings = client.settings
    due = loops.schedule_requests(rate, settings.seconds, settings.arrivals, settings.seed)
    samples = await _show_progress(loops.run_open_loop(client.ask, bodies, due), settings.seconds)
    return _report({"loop": "open", "rate": rate} | summarize(samples, settings.seconds))


async def _show_progress(loop: Awaitable[list[loops.Sample]], seconds: float) -> list[loops.Sample]:
    """A progress bar while it runs."""
    from tqdm import tqdm

    async def tick() -> None:
        with tqdm(total=round(seconds), unit="s", leave=False, bar_format="{l_bar}{bar}| {n}/{total} s") as bar:
            while True:
                await asyncio.sleep(1)
                bar.update(bar.n < bar.total)

    ticking = asyncio.create_task(tick())
    try:
        return await loop
    finally:
        ticking.cancel()


def _report(run: Run) -> Run:
    """Prints a line for the terminal."""
    who = f"{run['clients']} clients" if run["loop"] == "closed" else f"{run['rate']:.1f} requests/s"
    times = "  ".join(f"{name[:-3]} {run[name]:.1f}" for name in ("p50_ms", "p99_ms", "max_ms") if name in run)
    errors = "".join(f"  {kind} x {count}" for kind, count in run["errors"].items())
    lost = "" if run["loop"] == "closed" or kept_up(run) else "  (not sustained)"
    late = run.get("late_ms", 0)
    slow = f"  (of which this tool's own lag, p99: {late:.1f})" if late > 0.1 * run.get("p99_ms", 0) else ""
    print(f"{run['loop']:6} {who:>18}: {run['per_second']:.1f}/s answered, ms: {times}{slow}{errors}{lost}")
    return run


def main() -> None:
    """The command line."""
    try:
        settings = CliApp.run(Load)
        settings.output.mkdir(parents=True, exist_ok=True)
        found = asyncio.run(measure_service(settings))
    except OSError as error:
        sys.exit(f"load: --output {error.filename} cannot be written ({error.strerror}); name another folder")
    except ValidationError as error:
        sys.exit(f"load: {format_errors(error)}")
    except ModelError as error:
        sys.exit(f"load: {error}")
    (settings.output / "load.json").write_text(json.dumps(found, indent=2) + "\n", encoding="utf8")
    plot_latency(found, settings.output / "load.png")
    if "saturation" in found:
        print(f"saturation: {found['saturation']:.1f} requests per second")
    print(f"{settings.output / 'load.json'}, {settings.output / 'load.png'}")


if __name__ == "__main__":
    main()
