"""How much the API of ``tav serve`` sustains while a worker runs, what HTTP adds to an edit, and what affinity brings.

    python -m benchmarks.serve_load --work WORK --json serve_load.json

Stages, each with a server of its own on loopback (``--only`` names some of them):

``overhead``   the same edits over HTTP and in process, in turn
``requests``   status polls for ``--seconds``, then submissions, while a worker edits
``listeners``  64 queued jobs and 100 event streams; every stream must see its job's end; ``/healthz`` meanwhile
``memory``     memory of server and worker over ``--jobs`` small jobs
``affinity``   40 jobs over 4 clips in random order: with affinity, without, and on 4 servers with a clip each

The load generator is asyncio on plain sockets (``benchmarks/served.py``), not locust: on two cores a heavier one takes
the time that the server needs, and streams and memory need code of their own anyway. ``--size pocket`` takes about 25
minutes on two quiet cores; ``--size tiny --quick`` two.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import random
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import interleave, spread, table, write_json
from benchmarks.served import ENGINE, Connection, Served, ask_once, make_bundles, said, summary, until_ended

Result = dict[str, Any]
PROMPT = "a red bus is moving on the road"
QUICK = {"seconds": 1.0, "jobs": 6, "steps": 2, "rounds": 1, "queued": 6, "listeners": 8, "posts": 20, "mixed": 8}


def body(clip: int = 0, *, steps: int, seed: int | None = None) -> Result:
    """A request for an edit."""
    more = {} if seed is None else {"seed": seed}
    return {"prompt": PROMPT, "model": f"clip{clip}", "num_inference_steps": steps, **more}


async def submitted(port: int, bodies: list[Result]) -> list[str]:
    """The ids of new jobs, sent one after the other."""
    connection = Connection(port)
    ids = [(await connection.ask("POST", "/v1/videos", one)).json["id"] for one in bodies]
    connection.close()
    return ids


def overhead(bundles: Path, work: Path, options: argparse.Namespace) -> Result:
    """The same edits over HTTP and in process; every one inverts, since each has a seed of its own."""
    import tav_sdk
    from tav_sdk import edits
    from tav_sdk.request import EditRequest, InvertOptions, SampleOptions

    seeds = {"http": 0, "in process": 0}
    os.environ["TAV_CACHE"] = str(work / "overhead-in-process")  # a former run's inversions are not found
    with Served(bundles, work / "overhead") as server, tav_sdk.load(bundles / "clip0", engine=ENGINE) as pipeline:

        def over_http() -> None:
            seeds["http"] += 1

            async def one() -> None:
                made = await ask_once(server.port, "POST", "/v1/videos", body(steps=options.steps, seed=seeds["http"]))
                async for _ in Connection(server.port).events(f"/v1/videos/{made.json['id']}/events"):
                    pass  # the stream ends with the job
                assert (await ask_once(server.port, "GET", f"/v1/videos/{made.json['id']}/content")).status == 200

            asyncio.run(one())

        def in_process() -> None:
            seeds["in process"] += 1
            request = EditRequest(
                prompts=(PROMPT,),
                invert=InvertOptions(num_inversion_steps=options.steps, posterior_seed=seeds["in process"]),
                sample=SampleOptions(num_inference_steps=options.steps),
            )
            edits.make(request, pipeline, work / "edit", video=bundles / "clip0.mp4", overwrite=True)

        seconds = interleave({"http": over_http, "in process": in_process}, options.rounds)
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    added = medians["http"] - medians["in process"]
    return {
        **{name: spread(values) for name, values in seconds.items()},
        "added_ms": round(added * 1000, 1),
        "added_percent": round(100 * added / medians["in process"], 2),
    }


def requests(bundles: Path, work: Path, options: argparse.Namespace) -> Result:
    """Polls and submissions a second, while a worker edits."""
    limits = ("--max-queue", "100000", "--max-queue-per-token", "100000")

    async def polled(port: int, job: str) -> Result:
        seconds: list[float] = []
        end = time.perf_counter() + options.seconds

        async def poll() -> None:
            connection = Connection(port)
            while (began := time.perf_counter()) < end:
                assert (await connection.ask("GET", f"/v1/videos/{job}")).status == 200
                seconds.append(time.perf_counter() - began)
            connection.close()

        await asyncio.gather(*(poll() for _ in range(options.connections)))
        return {"per_second": round(len(seconds) / options.seconds, 1), **summary(seconds)}

    async def posted(port: int) -> Result:
        seconds: list[float] = []
        left = iter(range(options.posts))
        began = time.perf_counter()

        async def post() -> None:
            connection = Connection(port)
            for _ in left:
                start = time.perf_counter()
                assert (await connection.ask("POST", "/v1/videos", body(steps=options.steps))).status == 200
                seconds.append(time.perf_counter() - start)
            connection.close()

        await asyncio.gather(*(post() for _ in range(options.connections)))
        return {"per_second": round(len(seconds) / (time.perf_counter() - began), 1), **summary(seconds)}

    with Served(bundles, work / "requests", *limits) as server:
        busy = asyncio.run(submitted(server.port, [body(steps=200, seed=seed) for seed in range(20)]))
        polls = asyncio.run(polled(server.port, busy[0]))
        return {"connections": options.connections, "polls": polls, "submissions": asyncio.run(posted(server.port))}


def listeners(bundles: Path, work: Path, options: argparse.Namespace) -> Result:
    """Queued jobs, event streams, and whether the server answers meanwhile."""

    async def all_of_it(port: int) -> Result:
        ids = await submitted(port, [body(steps=options.steps, seed=seed) for seed in range(options.queued)])
        ends: list[str] = []
        health: list[float] = []
        began = time.perf_counter()

        async def listen(job: str) -> None:
            numbers, last = [], ""
            async for number, type_ in Connection(port).events(f"/v1/videos/{job}/events"):
                numbers.append(number)
                last = type_
            assert numbers == list(range(1, len(numbers) + 1)), numbers
            ends.append(last)

        async def look() -> None:
            connection = Connection(port)
            while True:
                start = time.perf_counter()
                assert (await connection.ask("GET", "/healthz")).status == 200
                health.append(time.perf_counter() - start)
                await asyncio.sleep(0.1)

        looking = asyncio.create_task(look())
        await asyncio.gather(*(listen(ids[index % len(ids)]) for index in range(options.listeners)))
        await until_ended(port, ids)
        looking.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await looking
        return {
            "jobs": len(ids),
            "listeners": options.listeners,
            "saw_the_end": sum(end == "video.completed" for end in ends),
            "jobs_per_minute": round(60 * len(ids) / (time.perf_counter() - began), 1),
            "healthz": summary(health),
        }

    with Served(bundles, work / "listeners", "--max-queue-per-token", "64") as server:
        return asyncio.run(all_of_it(server.port))


def memory(bundles: Path, work: Path, options: argparse.Namespace) -> Result:
    """Memory after each tenth of many small jobs."""
    part = max(1, options.jobs // 10)
    with Served(bundles, work / "memory") as server:
        found = []
        for done in range(0, options.jobs, part):
            for first in range(0, part, 30):
                bodies = [body(steps=1, seed=done + first + index) for index in range(min(30, part - first))]
                ids = asyncio.run(submitted(server.port, bodies))
                ended = asyncio.run(until_ended(server.port, ids))
                assert all(job["status"] == "completed" for job in ended), ended
            found.append({"jobs": done + part, **server.memory_mb()})
            said(f"memory after {done + part} jobs: {found[-1]}")
    half = found[len(found) // 2 :]
    return {"series": found, "growth_mb_in_second_half": {k: half[-1][k] - half[0][k] for k in ("server", "workers")}}


def affinity(bundles: Path, work: Path, options: argparse.Namespace) -> Result:
    """The same jobs with and without affinity, and on a server for each clip."""
    rng = random.Random(0)
    clips = [index % 4 for index in range(options.mixed)]
    rng.shuffle(clips)
    result: Result = {"jobs": len(clips), "clips": 4}

    def run(name: str, servers: list[Served], place: Callable[[int], int]) -> None:
        with contextlib.ExitStack() as stack:
            for server in servers:
                stack.enter_context(server)
            for server, clip in zip(servers, range(4), strict=False):  # open the engines
                place_of = clip if len(servers) > 1 else 0
                asyncio.run(until_ended(server.port, asyncio.run(submitted(server.port, [body(place_of, steps=1)]))))
            began = time.perf_counter()
            sent: dict[int, list[str]] = {}
            for index, clip in enumerate(clips):
                server = servers[place(clip)]
                one = body(clip, steps=options.steps) | {"prompt": f"{PROMPT}, {index}"}
                sent.setdefault(server.port, []).extend(asyncio.run(submitted(server.port, [one])))
            ended = [job for port, ids in sent.items() for job in asyncio.run(until_ended(port, ids))]
            seconds = time.perf_counter() - began
            assert all(job["status"] == "completed" for job in ended), ended
            memory = [server.memory_mb() for server in servers]
            swaps = sum(metric(server.port, "tav_swaps_total") for server in servers)
        result[name] = {
            "jobs_per_minute": round(60 * len(clips) / seconds, 1),
            "swaps": int(swaps),
            "memory_mb": round(sum(one["server"] + one["workers"] for one in memory), 1),
        }
        said(f"{name}: {result[name]}")

    queue = ("--max-queue-per-token", "64")
    run("affinity", [Served(bundles, work / "affinity", *queue)], lambda clip: 0)
    run("in order", [Served(bundles, work / "in-order", *queue, unsorted=True)], lambda clip: 0)
    run("four servers", [Served(bundles, work / f"four{index}", *queue) for index in range(4)], lambda clip: clip)
    return result


def metric(port: int, name: str) -> float:
    """A number of ``/metrics`` that has no labels."""
    text = asyncio.run(ask_once(port, "GET", "/metrics")).content.decode()
    return float(next(line.split()[1] for line in text.splitlines() if line.startswith(f"{name} ")))


STAGES: dict[str, Callable[[Path, Path, argparse.Namespace], Result]] = {
    "overhead": overhead,
    "requests": requests,
    "listeners": listeners,
    "memory": memory,
    "affinity": affinity,
}


def rows_of(result: Result) -> list[tuple[str, str]]:
    """The result for people."""
    rows = []
    if one := result.get("overhead"):
        rows.append(("added by HTTP to an edit", f"{one['added_ms']} ms, {one['added_percent']} %"))
    if one := result.get("requests"):
        for name in ("polls", "submissions"):
            times = ", ".join(f"{one[name][f'p{p}_ms']}" for p in (50, 95, 99))
            rows.append((f"{name} a second; p50, p95, p99 in ms", f"{one[name]['per_second']}; {times}"))
    if one := result.get("listeners"):
        rows.append(("listeners that saw the end", f"{one['saw_the_end']} of {one['listeners']}"))
        rows.append(("/healthz meanwhile, p99 and most, ms", f"{one['healthz']['p99_ms']}, {one['healthz']['max_ms']}"))
    if one := result.get("memory"):
        growth = one["growth_mb_in_second_half"]
        text = f"{round(growth['server'], 1) + 0:.1f}, {growth['workers']:.1f}"
        rows.append(("growth of server, of worker over the second half of the jobs, MB", text))
    for name in ("affinity", "in order", "four servers") if "affinity" in result else ():
        one = result["affinity"][name]
        text = f"{one['jobs_per_minute']}; {one['swaps']}; {one['memory_mb']}"
        rows.append((f"{name}: jobs a minute; swaps; MB", text))
    return rows


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path, metavar="DIR", help="folder to work in")
    parser.add_argument("--size", choices=speed_sizes(), default="pocket", help="of the base (default: pocket)")
    parser.add_argument("--only", nargs="+", choices=tuple(STAGES), help="stages (default: all)")
    parser.add_argument("--quick", action="store_true", help="so few of everything that the numbers mean nothing")
    parser.add_argument("--seconds", type=float, default=30.0, help="of polling (default: 30)")
    parser.add_argument("--connections", type=int, default=8, help="at once (default: 8)")
    parser.add_argument("--posts", type=int, default=500, help="submissions (default: 500)")
    parser.add_argument("--queued", type=int, default=64, help="jobs of listeners (default: 64)")
    parser.add_argument("--listeners", type=int, default=100, help="event streams (default: 100)")
    parser.add_argument("--jobs", type=int, default=500, help="jobs of memory (default: 500)")
    parser.add_argument("--mixed", type=int, default=40, help="jobs of affinity (default: 40)")
    parser.add_argument("--steps", type=int, default=10, help="of each job (default: 10)")
    parser.add_argument("--rounds", type=int, default=15, help="of overhead (default: 15)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    options = parser.parse_args(arguments)
    if options.quick:
        vars(options).update(QUICK)
    options.work.mkdir(parents=True, exist_ok=True)
    bundles = make_bundles(options.size, options.work, num_clips=4)
    states = options.work / "states"
    shutil.rmtree(states, ignore_errors=True)
    result: Result = {"benchmark": "serve_load", "size": options.size}
    for name in options.only or STAGES:
        said(name)
        began = time.monotonic()
        result[name] = {**STAGES[name](bundles, states, options), "took_s": round(time.monotonic() - began, 1)}
    print(table(("what", "measured"), rows_of(result)))
    write_json(options.json, result, options)
    return 0


def speed_sizes() -> tuple[str, ...]:
    """Bases to measure with."""
    from benchmarks.speed import SIZES_HERE

    return SIZES_HERE


if __name__ == "__main__":
    sys.exit(main())
