"""``tav serve`` under kill -9: no job lost, none done twice, every file as in an undisturbed run.

    python -m benchmarks.serve_chaos --work WORK --kills 50 --json serve_chaos.json

First 20 jobs run undisturbed. Then the same jobs are queued again on another state, while workers and the server are
killed at random moments, and the server is stopped with SIGTERM; as often as it takes for all ``--kills``. After each
round of jobs it is checked that

- every job is there, completed, and has exactly one event of its end;
- a job's events are numbered without a gap;
- its video has the bytes of the undisturbed run's;
- nothing is left of attempts that were cut off;
- workers of a killed server ended within 10 s, and a stopped server's exit status was 0.

``--small-disk DIR`` names a folder on a file system of its own of 128 MB or a little more. There the jobs run again
while the disk is filled. A new job must be refused with 507, and what fails must fail with ``storage_full``.
When there is room again, the others must complete, and those that failed, sent again, must have the right bytes.

    mkdir small && sudo mount -t tmpfs -o size=160m tmpfs small

The order of blows is that of ``--seed``; their moments are the machine's as well.
``--size pocket --kills 50`` takes about 20 minutes on two quiet cores, ``--size tiny --kills 4 --jobs 4`` two.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import os
import random
import shutil
import signal
import sqlite3
import sys
import time
from pathlib import Path
from typing import Any

if __name__ == "__main__" and not __package__:  # run by its path
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import table, write_json
from benchmarks.served import Connection, Served, ask_once, make_bundles, said, until_ended
from benchmarks.speed import SIZES_HERE

BLOWS = ("worker", "worker", "server", "stop")
"""What is done, with equal chance: kill -9 of a worker or of the server, or SIGTERM to the server."""
LEAVE_S = 10.0
"""Workers of a killed server must have ended by then."""
Found = dict[str, Any]


def bodies_of(count: int, *, steps: int, clips: int) -> list[Found]:
    """Requests that are all different."""
    return [
        {
            "prompt": f"a red bus is moving, number {index}",
            "model": f"clip{index % clips}",
            "num_inference_steps": steps,
            "seed": index,
        }
        for index in range(count)
    ]


async def submitted(port: int, bodies: list[Found], label: str) -> list[str]:
    """Ids of the jobs; each request is sent twice with one key, as after a time-out, and must make one job."""
    connection, ids = Connection(port), []
    for index, body in enumerate(bodies):
        headers = {"Idempotency-Key": f"{label}-{index}"}
        first, again = [await connection.ask("POST", "/v1/videos", body, headers) for _ in range(2)]
        assert first.json["id"] == again.json["id"], (first.content, again.content)
        ids.append(first.json["id"])
    connection.close()
    return ids


async def contents(port: int, ids: list[str]) -> list[str]:
    """SHA-256 of each video."""
    connection, found = Connection(port), []
    for job in ids:
        answer = await connection.ask("GET", f"/v1/videos/{job}/content")
        assert answer.status == 200, (job, answer.content[:300])
        found.append(hashlib.sha256(answer.content).hexdigest())
    connection.close()
    return found


def gone(pids: list[int], *, within_s: float) -> float:
    """Seconds until none of these processes is left.

    Raises:
        RuntimeError: one is still there after ``within_s``.
    """
    began = time.monotonic()
    while left := [pid for pid in pids if is_running(pid)]:
        if time.monotonic() - began > within_s:
            raise RuntimeError(f"{within_s} s after the server was killed, workers {left} still run")
        time.sleep(0.02)
    return time.monotonic() - began


def is_running(pid: int) -> bool:
    """Whether there is such a process, and it has not ended."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def strike(server: Served, blow: str) -> Found:
    """One blow, and the server up again."""
    if blow == "worker":
        pids = server.worker_pids()
        if not pids:
            return {}
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[0], signal.SIGKILL)
        return {"worker": 1}
    pids = server.worker_pids()
    status = server.signal(signal.SIGKILL if blow == "server" else signal.SIGTERM)
    took = gone(pids, within_s=LEAVE_S)
    if blow == "stop" and status != 0:
        raise RuntimeError(f"after SIGTERM the exit status was {status}, not 0")
    server.start()
    return {blow: 1, "workers_gone_s": took}


def checked(server: Served, ids: list[str], wanted: list[str]) -> Found:
    """Whether all is as in the undisturbed run; what is not is counted."""
    jobs = asyncio.run(until_ended(server.port, ids))
    failed = [job["error"] for job in jobs if job["status"] != "completed"]
    if failed:
        return {"failed": failed}
    database = sqlite3.connect(f"file:{server.state / 'jobs.sqlite3'}?mode=ro", uri=True)
    ends = gaps = 0
    for job in ids:
        rows = database.execute("select k, type from event where job = ? order by k", (job,)).fetchall()
        ends += sum(type_ == "video.completed" for _, type_ in rows) != 1
        gaps += [k for k, _ in rows] != list(range(1, len(rows) + 1))
    (kept,) = database.execute("select count(*) from job").fetchone()
    database.close()
    different = sum(one != other for one, other in zip(asyncio.run(contents(server.port, ids)), wanted, strict=True))
    left = sorted(path.name for path in (server.state / "work").iterdir())
    return {
        "attempts": sum(job["attempts"] for job in jobs),
        "jobs_in_store": kept,
        "not_one_end": ends,
        "gaps": gaps,
        "different_bytes": different,
        "left_behind": left,
    }


def fill(folder: Path) -> Path:
    """Write a file until the disk is full; the file."""
    path = folder / "filler"
    with contextlib.suppress(OSError), path.open("wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12):
            with contextlib.suppress(OSError):
                while True:
                    file.write(bytes(size))
    return path


def on_a_full_disk(bundles: Path, bodies: list[Found], wanted: list[str], options: argparse.Namespace) -> Found:
    """The same jobs, while the disk of the state fills up and gets room again."""
    state = options.small_disk / "state"
    shutil.rmtree(state, ignore_errors=True)
    with Served(bundles, state, "--workers", str(options.workers)) as server:
        ids = asyncio.run(submitted(server.port, bodies, "full"))
        found: Found = {"jobs": len(ids), "times_full": 0, "refused": [], "healthy": 0}
        while found["times_full"] < options.times_full:
            time.sleep(options.pause / 2)  # some jobs end in between
            filler = fill(options.small_disk)
            try:
                for _ in range(4):
                    time.sleep(options.pause / 4)
                    answer = asyncio.run(ask_once(server.port, "POST", "/v1/videos", bodies[0]))
                    found["refused"].append([answer.status, answer.json.get("error", {}).get("code")])
                    found["healthy"] += asyncio.run(ask_once(server.port, "GET", "/healthz")).status == 200
            finally:
                filler.unlink()
            found["times_full"] += 1
        jobs = asyncio.run(until_ended(server.port, ids))
        failed = [index for index, job in enumerate(jobs) if job["status"] != "completed"]
        codes = sorted({str(jobs[index]["error"]["code"]) for index in failed})
        again = asyncio.run(submitted(server.port, [bodies[index] for index in failed], "again"))
        asyncio.run(until_ended(server.port, again))
        last = list(ids)
        for index, job in zip(failed, again, strict=True):
            last[index] = job
        videos = asyncio.run(contents(server.port, last))
        different = sum(one != other for one, other in zip(videos, wanted, strict=True))
        left = sorted(path.name for path in (state / "work").iterdir())
    found |= {"failed": len(failed), "codes": codes, "different_bytes": different, "left_behind": left}
    refused_alike = all(one == [507, "storage_full"] for one in found["refused"])
    asked = 4 * found["times_full"]
    ok = refused_alike and found["healthy"] == asked and codes in ([], ["storage_full"]) and not different and not left
    return found | {"ok": ok}


def run(options: argparse.Namespace) -> Found:
    """Undisturbed, then disturbed."""
    rng = random.Random(options.seed)
    options.work.mkdir(parents=True, exist_ok=True)
    bundles = make_bundles(options.size, options.work, num_clips=options.clips)
    bodies = bodies_of(options.jobs, steps=options.steps, clips=options.clips)
    states = options.work / "chaos"
    shutil.rmtree(states, ignore_errors=True)
    workers = ("--workers", str(options.workers))  # the number of threads follows from it
    with Served(bundles, states / "undisturbed", *workers) as server:
        began = time.monotonic()
        ids = asyncio.run(submitted(server.port, bodies, "calm"))
        asyncio.run(until_ended(server.port, ids))
        wanted = asyncio.run(contents(server.port, ids))
        calm_s = time.monotonic() - began
    said(f"undisturbed: {options.jobs} jobs in {calm_s:.1f} s")
    blows: dict[str, int] = {"worker": 0, "server": 0, "stop": 0}
    longest, rounds, began = 0.0, [], time.monotonic()
    more = ("--max-attempts", "100", "--drain", str(options.drain), *workers)
    all_ids: list[str] = []
    with Served(bundles, states / "disturbed", *more) as server:
        while sum(blows.values()) < options.kills and time.monotonic() - began < 60 * options.minutes:
            ids = asyncio.run(submitted(server.port, bodies, f"round{len(rounds)}"))
            all_ids += ids
            while sum(blows.values()) < options.kills:
                time.sleep(rng.uniform(0, options.pause))
                last = asyncio.run(ask_once(server.port, "GET", "/v1/videos?limit=100")).json["data"]
                if all(job["status"] in ("completed", "failed") for job in last if job["id"] in ids):
                    break
                done = strike(server, rng.choice(BLOWS))
                longest = max(longest, done.pop("workers_gone_s", 0.0))
                for name in done:
                    blows[name] += 1
            rounds.append(checked(server, ids, wanted))
            said(f"round {len(rounds)}, {blows}: {rounds[-1]}")
            if rounds[-1].get("jobs_in_store") != len(all_ids):
                rounds[-1]["lost_or_doubled"] = True
    result = {
        "benchmark": "serve_chaos",
        "size": options.size,
        "jobs": len(all_ids),
        "blows": blows,
        "rounds": rounds,
        "workers_gone_s_at_most": round(longest, 2),
        "undisturbed_s": round(calm_s, 1),
        "disturbed_s": round(time.monotonic() - began, 1),
        "ok": all(is_whole(one) for one in rounds),
    }
    if options.small_disk is not None:
        said("a full disk")
        result["full_disk"] = on_a_full_disk(bundles, bodies, wanted, options)
        result["ok"] = result["ok"] and result["full_disk"]["ok"]
    return result


def is_whole(found: Found) -> bool:
    """Whether a round went as it must."""
    wrong = ("failed", "not_one_end", "gaps", "different_bytes", "left_behind", "lost_or_doubled")
    return not any(found.get(name) for name in wrong)


def rows_of(result: Found) -> list[tuple[str, str]]:
    """The result for people."""
    total = {
        name: sum(one.get(name, 0) for one in result["rounds"])
        for name in ("attempts", "not_one_end", "gaps", "different_bytes")
    }
    rows = [
        ("kill -9 of a worker, of the server; SIGTERM", ", ".join(map(str, result["blows"].values()))),
        ("jobs; attempts", f"{result['jobs']}; {total['attempts']}"),
        ("jobs failed", str(sum(len(one.get("failed", ())) for one in result["rounds"]))),
        ("jobs without exactly one end", str(total["not_one_end"])),
        ("videos with other bytes", str(total["different_bytes"])),
    ]
    if full := result.get("full_disk"):
        rows.append(("full disk: times; jobs; failed with storage_full, made again", _counts(full)))
    return [*rows, ("all as it must be", "yes" if result["ok"] else "NO")]


def _counts(full: Found) -> str:
    return f"{full['times_full']}; {full['jobs']}; {full['failed']}"


def main(arguments: list[str] | None = None) -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path, metavar="DIR", help="folder to work in")
    parser.add_argument("--size", choices=SIZES_HERE, default="pocket", help="of the base (default: pocket)")
    parser.add_argument("--kills", type=int, default=50, help="blows in all (default: 50)")
    parser.add_argument("--minutes", type=float, default=40, help="no new round after so many (default: 40)")
    parser.add_argument("--jobs", type=int, default=20, help="queued in each round (default: 20)")
    parser.add_argument("--clips", type=int, default=2, help="models (default: 2)")
    parser.add_argument("--steps", type=int, default=10, help="of each job (default: 10)")
    parser.add_argument("--workers", type=int, default=1, help="of the server (default: 1)")
    parser.add_argument("--pause", type=float, default=8.0, help="longest pause between blows, in s (default: 8)")
    parser.add_argument("--drain", type=float, default=1.0, help="of a stop, in s (default: 1)")
    parser.add_argument("--small-disk", type=Path, metavar="DIR", help="also fill the small file system of this folder")
    parser.add_argument("--times-full", type=int, default=3, help="how often it is filled (default: 3)")
    parser.add_argument("--seed", type=int, default=0, help="of the blows (default: 0)")
    parser.add_argument("--json", metavar="FILE", help="also write the result to this file")
    options = parser.parse_args(arguments)
    result = run(options)
    print(table(("what", "measured"), rows_of(result)))
    write_json(options.json, result, options)
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
