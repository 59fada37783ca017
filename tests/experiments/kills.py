"""Kills random processes of a run in two at random moments, and looks whether an example was lost or repeated.

    python tests/experiments/kills.py --folder=/tmp/kills [--kills=100] [--minutes=8] [--save]

One session after the other of the same run is started; each is ended by SIGKILL to one of its two processes, at a random moment
of its start or of its training, and the other has to end by itself. Each process notes a hash of every batch that it takes. What
it took must be what the run that nobody killed took at the same steps, from the one after the newest checkpoint on: so every
checkpoint has seen each example once. At last the run goes to its end, which must be the same bytes.

It stops after so many minutes; the same command does the rest. --save writes benchmarks/results/kills.json.
"""

import argparse
import collections
import json
import pathlib
import random
import re
import signal
import statistics
import sys
import time
from typing import Any

if __name__ == "__main__":
    sys.path[:0] = [str(pathlib.Path(__file__).resolve().parents[2]), str(pathlib.Path(__file__).parent)]

from processes import Run, Server, final_state, records, sealed, small, write_text

from seqjax.launch import free_port

STEPS = 40  # of the whole run, for each kill: more than are trained between two
EVERY = 5  # steps between checkpoints
TIME_LIMIT = 20  # --distributed_timeout, seconds
STARTING = 0.3  # share of the kills that come before the first step
TRAINING = 1.0  # seconds after the first step within which the others come


class Kills:
    """The run that is killed, and the one that is not.

    Args:
      server: starts the processes.
      folder: of both runs and of what is known so far; continued where it is there already.
      kills: how many there are to be.
      seed: of the moments and the victims.
    """

    def __init__(self, server: Server, folder: pathlib.Path, kills: int, seed: int = 0):
        self._server, self._folder, self.kills, self._seed = server, folder, kills, seed
        self._batches = folder / "batches"
        self._batches.mkdir(parents=True, exist_ok=True)
        text = write_text(folder / "text.txt", 60_000)
        steps = STEPS * kills
        self._flags = small(
            text, train__steps=steps, train__checkpoint_every=EVERY, train__eval_every=max(steps // 4, 20), train__log_every=20,
            data__eval_window=100, data__eval_batch_size=8,
        )  # fmt: skip
        self._state = folder / "state.json"
        self.known: dict[str, Any] = {"straight": None, "sessions": []}
        if self._state.exists():
            self.known = json.loads(self._state.read_text(encoding="utf-8"))

    def _keep(self) -> None:
        new = self._state.with_suffix(".new")
        new.write_text(json.dumps(self.known), encoding="utf-8")
        new.replace(self._state)

    def _start(self, name: str, **faults) -> list[Run]:
        address = f"127.0.0.1:{free_port()}"
        flags = [f"--workdir={self._folder / name}", *self._flags, f"--distributed_timeout={TIME_LIMIT}"]
        faults |= {"note_batches": str(self._batches)}
        env = {"TF_CPP_MIN_LOG_LEVEL": "4"}
        return [self._server.start(*flags, f"--distributed={address},2,{index}", env=env, **faults) for index in range(2)]

    def _taken(self, run: Run) -> list[str]:
        path = self._batches / str(run.pid)
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        path.unlink(missing_ok=True)  # the system may give the number to another process
        return text.split()

    def _to_the_end(self, name: str) -> list[list[str]]:
        runs = self._start(name)
        for run in runs:
            run.wait(600)
            assert run.status == 0, f"{run.status}\n{run.out}\n{run.err}"
        return [self._taken(run) for run in runs]

    def straight(self) -> None:
        """The run that nobody kills, once."""
        if self.known["straight"] is None:
            self.known["straight"] = self._to_the_end("straight")
            self._keep()

    def _check(self, taken: list[list[str]], first: int) -> None:
        for index, (mine, its) in enumerate(zip(taken, self.known["straight"], strict=True)):
            assert mine == its[first : first + len(mine)], f"process {index} took other batches from step {first} on"

    def kill(self, wait: int = 0, **faults) -> None:
        """One session, one kill.

        Args:
          wait: for the checkpoint of this step.
          **faults: functions of faults and their argument.
        """
        number = len(self.known["sessions"])
        chooser = random.Random(self._seed * 1_000_000 + number)
        victim, starting = chooser.randrange(2), chooser.random() < STARTING
        first = (sealed(self._folder / "run") or [0])[-1]
        begin = time.monotonic()
        runs = self._start("run", slow_steps=0.02, **faults)
        if not starting:
            runs[0].wait_for(lambda: "first step after" in runs[0].out and (sealed(self._folder / "run") or [0])[-1] >= wait)
            self.known["usual"] = time.monotonic() - begin
        time.sleep(chooser.uniform(0, self.known.get("usual", 3.0) if starting else TRAINING))
        assert runs[victim].poll() is None, f"it ended by itself\n{runs[victim].out}\n{runs[victim].err}"
        runs[victim].kill()
        killed = time.monotonic()
        other = runs[1 - victim].wait(TIME_LIMIT + 60)
        waited = time.monotonic() - killed
        assert other.status == 1 and re.search(r"^error: ", other.err, re.MULTILINE), f"{other.status}\n{other.out}\n{other.err}"
        said = re.search(r"resuming from the checkpoint of step (\d+)", runs[0].out)
        assert said is None or int(said[1]) == first, (first, runs[0].out)
        taken = [self._taken(run) for run in runs]
        self._check(taken, first)
        self.known["sessions"].append(
            {"victim": victim, "first": first, "steps": max(map(len, taken)), "waited": waited, "error": other.err.strip().split("\n")[-1]}
        )
        self._keep()

    def finish(self) -> dict[str, Any]:
        """Goes to the end of the killed run, compares it with the other one, and sums up."""
        first = sealed(self._folder / "run")[-1]
        taken = self._to_the_end("run")
        self._check(taken, first)
        steps = STEPS * self.kills
        assert [first + len(rows) for rows in taken] == [steps, steps] == [len(rows) for rows in self.known["straight"]]
        mine, its = (final_state(self._folder / name) for name in ("run", "straight"))
        assert mine == its and len(mine) > 10, [name for name in mine if mine[name] != its.get(name)]
        assert records(self._folder / "run") == records(self._folder / "straight")
        sessions = self.known["sessions"]
        waited = [round(session["waited"], 2) for session in sessions]
        errors = collections.Counter(re.sub(r"\(.*\)|\d+", "", session["error"]) for session in sessions)
        return {
            "question": "SIGKILL to random processes of a run in two, at random moments: is an example lost or repeated?",
            "kills": len(sessions),
            "of process 0": sum(session["victim"] == 0 for session in sessions),
            "before the first step": sum(session["steps"] == 0 for session in sessions),
            "steps of the run": steps,
            "different batches, of both processes": len(set(sum(self.known["straight"], []))),
            "steps taken again after a kill": sum(
                session["first"] + session["steps"] - after["first"]
                for session, after in zip(sessions, [*sessions[1:], {"first": first}], strict=True)
            ),
            "examples lost or repeated": 0,  # _check refuses any
            "the same end, byte for byte": True,
            "seconds until the other process had ended": {"median": statistics.median(waited), "longest": max(waited)},
            "what it said": dict(errors),
        }


def main() -> None:
    """Does what there is time for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=pathlib.Path, required=True)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--minutes", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save", action="store_true")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # the processes end with it
    end, folder = time.monotonic() + 60 * options.minutes, options.folder / f"{time.time_ns()}"
    folder.mkdir(parents=True)
    server = Server(folder)
    try:
        kills = Kills(server, options.folder, options.kills, options.seed)
        kills.straight()
        while len(kills.known["sessions"]) < options.kills and time.monotonic() < end:
            kills.kill()
            print(len(kills.known["sessions"]), kills.known["sessions"][-1], flush=True)
        if len(kills.known["sessions"]) < options.kills:
            print("the same command does the rest")
            return
        found = kills.finish()
    finally:
        server.close()
    print(json.dumps(found, indent=1))
    if options.save:
        from benchmarks import common

        common.save("kills", found)


if __name__ == "__main__":
    main()
