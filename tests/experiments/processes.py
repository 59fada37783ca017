"""Starting, watching and comparing runs of the experiments."""

import json
import os
import pathlib
import random
import signal
import subprocess
import sys
import time
import warnings

import jax
import numpy as np
import orbax.checkpoint as ocp

ROOT = pathlib.Path(__file__).resolve().parents[2]
HELLO = "--config=hello"
UNITS = ("tokens", "images", "texts", "words", "frames", "values", "bases", "labels", "videos", "answers")
KEPT_WHOLE = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
TIMINGS = (*(f"{unit}_per_second" for unit in UNITS), "minutes")


class Run:
    """A process of the experiment, under way or ended."""

    def __init__(self, server: "Server", pid: int, folder: pathlib.Path):
        self.pid, self.status = pid, None
        self._server, self._folder = server, folder

    def poll(self) -> int | None:
        if self.status is None:
            self.status = self._server.ask({"poll": self.pid})
        return self.status

    def wait(self, seconds: float = 120.0) -> "Run":
        """Waits for the end; a run that takes longer is killed, and the test fails."""
        end = time.monotonic() + seconds
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                raise AssertionError(f"still running after {seconds} s\n{self.out}\n{self.err}")
            time.sleep(0.01)
        return self

    def wait_for(self, condition, seconds: float = 120.0, every: float = 0.005) -> None:
        """Waits until condition() is true while the process runs; looks every so many seconds."""
        end = time.monotonic() + seconds
        while not condition():
            if self.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"waited in vain; status {self.status}\n{self.out}\n{self.err}")
            time.sleep(every)

    def wait_until_ready(self) -> None:
        """Waits until the loop begins, with signals collected."""
        self.wait_for(lambda: "ready after" in self.out)

    def signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> "Run":
        self.signal(signal.SIGKILL)
        return self.wait()

    @property
    def out(self) -> str:
        return (self._folder / "out").read_text(encoding="utf-8")

    @property
    def err(self) -> str:
        return (self._folder / "err").read_text(encoding="utf-8")

    def refused(self, *words: str, status: int = 1) -> None:
        """Asserts one line on standard error that has all the words, and the exit status."""
        assert self.wait().status == status, f"{self.status}\n{self.out}\n{self.err}"
        assert self.err.startswith("error: ") and self.err.count("\n") == 1, self.err
        for word in words:
            assert word in self.err, f"{word!r} is not in {self.err}"


class Server:
    """server.py at work."""

    def __init__(self, folder: pathlib.Path):
        self._folder, self._runs = folder, []
        # A cache of their own, of all that they compile: each looks through the whole folder when it starts.
        cache = {"JAX_COMPILATION_CACHE_DIR": f"{os.environ['JAX_COMPILATION_CACHE_DIR']}-runs", **KEPT_WHOLE}
        env = os.environ | cache | {"PYTHONPATH": str(ROOT)}
        command = [sys.executable, str(pathlib.Path(__file__).with_name("server.py"))]
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        assert self._process.stdout.readline() == "ready\n"

    def ask(self, request: dict):
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())

    def start(
        self,
        *argv: str,
        experiment: str = "language_model",
        env: dict | None = None,
        stdin: str = "",
        curves: bool = False,
        **faults,
    ) -> Run:
        """Starts a process of an experiment; other keyword arguments are functions of faults and their argument.

        Drawing its curves takes a second, a tenth of a small run: only with `curves` are they more than an empty file.
        """
        faults |= {} if curves else {"no_curves": True}
        folder = self._folder / str(len(self._runs))
        folder.mkdir()
        (folder / "out").touch()
        (folder / "err").touch()
        (folder / "in").write_text(stdin, encoding="utf-8")
        request = {"experiment": experiment, "argv": argv, "env": env or {}, "faults": list(faults.items())}
        streams = {"stdin": folder / "in", "stdout": folder / "out", "stderr": folder / "err"}
        pid = self.ask(request | {name: str(path) for name, path in streams.items()})
        self._runs.append(Run(self, pid, folder))
        return self._runs[-1]

    def run(self, *argv: str, **options) -> Run:
        """Starts a process and waits for its end."""
        return self.start(*argv, **options).wait()

    def close(self) -> None:
        for run in self._runs:
            run.kill()
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()


def write_text(path: pathlib.Path, characters: int = 1000, seed: int = 0) -> pathlib.Path:
    """A file of made-up words."""
    words = ["apple", "pear", "salad", "the", "and", "with", "of", "bread", "is", "good", "sour", "soup"]
    chooser, text = random.Random(seed), ""
    while len(text) < characters:
        text += chooser.choice(words) + chooser.choice([" ", " ", ", ", ".\n"])
    path.write_text(text[:characters], encoding="utf-8")
    return path


def small(text: pathlib.Path, **changes) -> list[str]:
    """Flags of a run of 60 steps, 2.6 passes over 1,000 characters, with dropout; names with __ for the dot."""
    settings = {
        "data.source": "file", "data.path": text, "data.batch_size": 4, "data.window": 10, "data.eval_batch_size": 4,
        "data.eval_window": 10, "model.cell": "lstm", "model.num_layers": 1, "model.hidden_size": 16,
        "model.embed_size": 8, "model.dropout": 0.2, "optimizer.name": "adam", "optimizer.learning_rate": 0.01,
        "schedule.name": "cosine", "schedule.warmup_steps": 0, "ngram_order": 2, "train.steps": 60,
        "train.log_every": 5, "train.eval_every": 20, "train.checkpoint_every": 7, "train.keep": 2, "sample.length": 10,
    }  # fmt: skip
    return config_flags(settings, changes)


def config_flags(settings: dict, changes: dict) -> list[str]:
    """Flags that set the config; in the names of changes __ stands for the dot."""
    settings = settings | {name.replace("__", "."): value for name, value in changes.items()}
    return [f"--config.{name}={value}" for name, value in settings.items()]


def sealed(workdir: pathlib.Path) -> list[int]:
    """The steps of the finished checkpoints."""
    folders = [manifest.parent.name for manifest in workdir.glob("checkpoints/*/MANIFEST.json")]
    return sorted(int(name) for name in folders if name.isdigit())  # the others are being written or deleted


def final_state(workdir: pathlib.Path) -> dict[str, bytes]:
    """The newest checkpoint, read with nothing of the project's: arrays' bytes, the data's place, the progress."""
    folder = workdir.absolute() / "checkpoints" / str(sealed(workdir)[-1])
    with warnings.catch_warnings(), ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
        warnings.simplefilter("ignore")  # no target is given
        tree = reader.handler.metadata(folder / "state").tree
        as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)  # whatever devices the arrays were cut over
        state = reader.restore(folder / "state", args=ocp.args.PyTreeRestore(restore_args=as_numpy))
    found: dict[str, bytes] = {}

    def collect(prefix, tree):
        if isinstance(tree, dict):
            items = tree.items()
        elif isinstance(tree, (list, tuple)):
            items = enumerate(tree)
        else:
            found[prefix] = b"none" if tree is None else np.asarray(tree).tobytes()
            return
        for name, part in items:
            collect(f"{prefix}/{name}", part)

    collect("state", state)
    meta = json.loads((folder / "meta" / "metadata").read_text(encoding="utf-8"))["meta"]  # without the run's id
    del meta["progress"]["seconds"]
    found["meta"] = json.dumps(meta, sort_keys=True).encode()
    return found


def records(workdir: pathlib.Path) -> list[dict]:
    """metrics.jsonl without what time decides."""
    lines = (workdir / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    return [{k: v for k, v in json.loads(line).items() if k not in TIMINGS} for line in lines]
