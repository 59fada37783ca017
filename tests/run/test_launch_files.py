"""The files of launch/, as far as they can be tried without a cluster: their syntax, their fields, and what they would run, and when again.

The tools are stand-ins on the PATH that note their arguments; the experiment's own command line takes what they note.
"""

import ast
import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time

import pytest
import yaml
from jax._src import clusters

from experiments import language_model
from seqjax.run import cli, distributed

LAUNCH = pathlib.Path(__file__).parents[2] / "launch"


def stand_in(path, script=""):
    """A program that adds its arguments to the file beside it, a line a call with tabs between, then runs a script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    note = """n=$'\\n' r=$'\\r'; (IFS=$'\\t'; echo "${*//$n/$r}")"""
    path.write_text(f'#!/bin/bash\n{note} >> "{path}.calls"\n{script}\n')
    path.chmod(0o755)


def calls(path):
    noted = path.with_name(path.name + ".calls")
    lines = noted.read_bytes().decode().removesuffix("\n").split("\n") if noted.exists() else []
    return [[word.replace("\r", "\n") for word in line.split("\t")] for line in lines]


def bash(folder, *argv, **env):
    """Runs bash with the stand-ins of a folder first on its PATH, and the folder as home."""
    env = {"PATH": f"{folder}:{os.environ['PATH']}", "HOME": str(folder)} | env
    return subprocess.run(["bash", *argv], env=env, capture_output=True, text=True, timeout=60)


def taken(argv, count=None):
    """What the experiment makes of a command, whose batches so many processes can share; its --distributed."""
    assert argv[:3] == ["-m", "seqjax", "language_model"], argv
    command = cli.parse(language_model.EXPERIMENT, argv[2:])
    config = cli.config_of(language_model.EXPERIMENT, command)
    asked = distributed.parse(command.options.distributed)
    count = count or asked.count
    assert config.data.batch_size % count == 0 == config.data.eval_batch_size % count
    assert command.preset == "char_large" and command.workdir.is_absolute()
    return asked


# SLURM.

SBATCH = (LAUNCH / "slurm.sbatch").read_text(encoding="utf-8")
OPTIONS = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(.*))?$", SBATCH, flags=re.MULTILINE))


def test_sbatch_reads_its_options():
    """It reads lines before the first command, and knows these names; the signal goes to the processes, not to this script (no B:)."""
    head = SBATCH.split("\nset -u")[0].splitlines()
    assert head[0] == "#!/bin/bash" and all(line.startswith("#") for line in head)
    assert len(OPTIONS) == SBATCH.count("\n#SBATCH ") == 10
    assert OPTIONS.keys() == {
        "job-name", "nodes", "ntasks-per-node", "gpus-per-node", "cpus-per-task", "time", "signal", "requeue", "open-mode", "output",
    }  # fmt: skip
    assert OPTIONS["ntasks-per-node"] == OPTIONS["gpus-per-node"] and re.fullmatch(r"TERM@\d+", OPTIONS["signal"])


@pytest.mark.parametrize(
    "status, restarts, again", [(0, "", False), (143, "", True), (137, "3", True), (1, "", False), (2, "", False), (143, "100", False)]
)
def test_slurm_requeues_what_was_stopped(tmp_path, status, restarts, again):
    stand_in(tmp_path / "srun", f"exit {status}")
    stand_in(tmp_path / "scontrol")
    env = {"SLURM_JOB_ID": "77"} | ({"SLURM_RESTART_COUNT": restarts} if restarts else {})
    found = bash(tmp_path, str(LAUNCH / "slurm.sbatch"), **env)
    assert (found.returncode, found.stderr) == (status, "")
    assert calls(tmp_path / "scontrol") == ([["requeue", "77"]] if again else [])
    ((bind, python, *argv),) = calls(tmp_path / "srun")
    assert (bind, python) == ("--gpu-bind=none", "python")
    assert taken(argv, int(OPTIONS["nodes"]) * int(OPTIONS["ntasks-per-node"])) == "auto"


def test_jax_finds_what_slurm_says(monkeypatch):
    """Of process 11 of 16, the fourth of its node: the address of the first node, and the GPU of its number on the node."""
    for name, value in {
        "JOB_ID": "4242", "STEP_NODELIST": "gpu[007-008]", "NTASKS": "16", "PROCID": "11", "LOCALID": "3", "STEP_NUM_NODES": "2",
    }.items():  # fmt: skip
        monkeypatch.setenv(f"SLURM_{name}", value)
    found = clusters.ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, 100)
    assert re.fullmatch(r"gpu007:\d{5}", found[0]) and found[1:] == (16, 11, [3])


# submitit.


def test_the_command_of_submitit_is_one():
    tree = ast.parse((LAUNCH / "submitit_slurm.py").read_text(encoding="utf-8"))
    command = next(node.value for node in tree.body if isinstance(node, ast.Assign) and node.targets[0].id == "COMMAND")
    assert taken([*ast.literal_eval(command), "--workdir=/shared/lm"], 16) == "auto"


@pytest.fixture
def submitit_slurm():
    pytest.importorskip("submitit", reason="an optional package: pip install submitit")
    spec = importlib.util.spec_from_file_location("submitit_slurm", LAUNCH / "submitit_slurm.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def sent(folder, *flags):
    """What the script prints, with the stand-ins of a folder first on the PATH."""
    argv = [sys.executable, str(LAUNCH / "submitit_slurm.py"), f"--workdir={folder / 'run'}", f"--logs={folder / 'logs'}", *flags]
    env = os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_submitit_runs_the_command(submitit_slurm, tmp_path):
    said = sent(tmp_path, "--cluster=debug", "--config=char_small", "--doctor")
    assert "this is a single process" in said and "ready: the command without --doctor trains" in said


def test_submitit_asks_slurm_for_what_the_processes_need(submitit_slurm, tmp_path):
    stand_in(tmp_path / "sbatch", 'cp "$1" "$0.script"; echo Submitted batch job 77')
    stand_in(tmp_path / "srun")
    assert "job 77" in sent(tmp_path, "--partition=gpu", "--hours=2")
    lines = (tmp_path / "sbatch.script").read_text().splitlines()
    for option in (
        "nodes=2", "ntasks-per-node=8", "gpus-per-node=8", "cpus-per-task=8", "time=120", "partition=gpu", "signal=USR2@180",
        "open-mode=append",
    ):  # fmt: skip
        assert f"#SBATCH --{option}" in lines, option
    assert "--gpu-bind=none" in next(line for line in lines if line.startswith("srun "))


def test_submitit_stops_the_command_and_has_it_run_again(submitit_slurm, tmp_path):
    text = "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(143)); "
    text += f"pathlib.Path({str(tmp_path / 'there')!r}).touch(); time.sleep(60)"
    training, statuses = submitit_slurm.Training([sys.executable, "-c", text]), []
    thread = threading.Thread(target=lambda: statuses.append(training()))
    thread.start()
    while not (tmp_path / "there").exists():
        time.sleep(0.01)
    again = training.checkpoint()
    thread.join(10)
    assert statuses == [128 + signal.SIGTERM] and again.function.command == training.command
    with pytest.raises(RuntimeError, match="ended with status 3"):
        submitit_slurm.Training([sys.executable, "-c", "raise SystemExit(3)"])()


# Kubernetes.

ACTIONS = {"FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RestartJob", "RestartJobAndIgnoreMaxRestarts"}
FIELDS = {  # of jobset.x-k8s.io/v1alpha2 and batch/v1, as far as they are used here
    "": {"apiVersion", "kind", "metadata", "spec"},
    "spec": {"failurePolicy", "replicatedJobs"},
    "spec failurePolicy": {"maxRestarts", "rules"},
    "spec failurePolicy rules": {"name", "action", "onJobFailureReasons"},
    "spec replicatedJobs": {"name", "replicas", "template"},
    "spec replicatedJobs template": {"spec"},
    "spec replicatedJobs template spec": {"completionMode", "completions", "parallelism", "backoffLimit", "podFailurePolicy", "template"},
    "spec replicatedJobs template spec podFailurePolicy": {"rules"},
    "spec replicatedJobs template spec podFailurePolicy rules": {"action", "onPodConditions", "onExitCodes"},
    "spec replicatedJobs template spec podFailurePolicy rules onPodConditions": {"type", "status"},
    "spec replicatedJobs template spec podFailurePolicy rules onExitCodes": {"containerName", "operator", "values"},
    "spec replicatedJobs template spec template spec": {"restartPolicy", "terminationGracePeriodSeconds", "containers", "volumes"},
    "spec replicatedJobs template spec template spec containers": {"name", "image", "command", "args", "resources", "volumeMounts"},
    "metadata": {"name"},
    "spec replicatedJobs template spec template": {"spec"},
    "spec replicatedJobs template spec template spec containers resources": {"limits"},
    "spec replicatedJobs template spec template spec containers resources limits": {"nvidia.com/gpu"},
    "spec replicatedJobs template spec template spec containers volumeMounts": {"name", "mountPath"},
    "spec replicatedJobs template spec template spec volumes": {"name", "persistentVolumeClaim", "emptyDir"},
    "spec replicatedJobs template spec template spec volumes persistentVolumeClaim": {"claimName"},
    "spec replicatedJobs template spec template spec volumes emptyDir": {"medium"},
}


def assert_fields(value, where=()):
    for one in value if isinstance(value, list) else [value]:
        if isinstance(one, dict):
            assert set(one) <= FIELDS[" ".join(where)], where
            for name, inner in one.items():
                assert_fields(inner, (*where, name))


def test_the_jobset_runs_the_command_in_every_pod(tmp_path):
    found = yaml.safe_load((LAUNCH / "jobset.yaml").read_text(encoding="utf-8"))
    assert (found["apiVersion"], found["kind"]) == ("jobset.x-k8s.io/v1alpha2", "JobSet")
    assert_fields(found)
    (group,) = found["spec"]["replicatedJobs"]
    job, pod = group["template"]["spec"], group["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert group["replicas"] == 1 and job["completionMode"] == "Indexed" and job["completions"] == job["parallelism"]
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}
    stand_in(tmp_path / "python")
    assert container["command"] == ["/bin/bash", "-c"]
    for index in range(job["completions"]):
        assert bash(tmp_path, "-c", *container["args"], JOB_COMPLETION_INDEX=str(index)).returncode == 0
        address = taken(calls(tmp_path / "python")[-1])
        host = f"{found['metadata']['name']}-{group['name']}-0-0.{found['metadata']['name']}"  # pod 0 of job 0 in the headless service
        assert address == (f"{host}:9000", job["parallelism"], index)
        assert calls(tmp_path / "python")[-1][3].startswith(f"--workdir={container['volumeMounts'][0]['mountPath']}/")


def test_the_jobset_restarts_all_pods_and_counts_no_preemption():
    spec = yaml.safe_load((LAUNCH / "jobset.yaml").read_text(encoding="utf-8"))["spec"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule["action"] in ACTIONS and rule["action"].endswith("IgnoreMaxRestarts")
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert spec["failurePolicy"]["maxRestarts"] > 0 == job["backoffLimit"]  # one pod alone is never started again
    assert job["template"]["spec"]["restartPolicy"] == "Never"  # which podFailurePolicy needs
    evicted, stopped = job["podFailurePolicy"]["rules"]
    assert evicted["action"] == stopped["action"] == "FailJob" and evicted["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert stopped["onExitCodes"]["values"] == [128 + signal.SIGTERM]
    assert stopped["onExitCodes"]["containerName"] == job["template"]["spec"]["containers"][0]["name"]


# SkyPilot.


def test_skypilot_runs_the_command_on_every_node(tmp_path):
    found = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text(encoding="utf-8"))
    volume = yaml.safe_load((LAUNCH / "skypilot_volume.yaml").read_text(encoding="utf-8"))
    assert found["resources"]["job_recovery"]["recover_on_exit_codes"] == [128 + signal.SIGTERM]
    ((mount, name),) = found["volumes"].items()
    assert name == volume["name"] and volume["config"]["access_mode"] == "ReadWriteMany"
    python = tmp_path / "seqjax-venv" / "bin" / "python"
    stand_in(python)
    for rank in range(found["num_nodes"]):
        env = {"SKYPILOT_NODE_IPS": "10.0.0.5\n10.0.0.6", "SKYPILOT_NODE_RANK": str(rank), "SKYPILOT_NUM_NODES": str(found["num_nodes"])}
        assert bash(tmp_path, "-c", found["run"], **env).returncode == 0
        assert taken(calls(python)[-1]) == ("10.0.0.5:9000", found["num_nodes"], rank)
        assert calls(python)[-1][3].startswith(f"--workdir={mount}/")
    assert bash(tmp_path, "-n", "-c", found["setup"]).returncode == 0


def test_skypilot_takes_the_task():
    sky = pytest.importorskip("sky", reason="an optional package: pip install skypilot")
    task = sky.Task.from_yaml(str(LAUNCH / "skypilot.yaml"))
    assert task.num_nodes == 2 and [resources.accelerators for resources in task.resources] == [{"H100": 8}]


# Cloud TPU.

TPU = {"PROJECT": "p", "ZONE": "z", "FILESTORE": "10.0.0.2:/share", "SOURCE": "seqjax[experiments] @ git+x", "PAUSE": "0"}
# Answers by turns from a file of states; ssh's status is the next of a file too, once for each run of the training command.
GCLOUD = """
next() { head -n1 "$1"; sed -i 1d "$1"; }
case "$*" in
  *"queued-resources describe"*)
    said=$(next "$HOME/states")
    case "$said" in ERROR*) echo "$said" >&2; exit 1 ;; *) echo "$said" ;; esac ;;
  *apt-get*) if [ -s "$HOME/prepared" ]; then exit "$(next "$HOME/prepared")"; fi ;;
  *"queued-resources create"*) if [ -e "$HOME/refused" ]; then exit 1; fi ;;
  *"seqjax language_model"*) exit "$(next "$HOME/statuses")" ;;
esac
"""


def tpu(folder, what, states, statuses):
    """The status of the script, and gcloud's calls."""
    stand_in(folder / "gcloud", GCLOUD)
    (folder / "states").write_text("\n".join(states) + "\n")
    (folder / "statuses").write_text("\n".join(map(str, statuses)) + "\n")
    found = bash(folder, str(LAUNCH / "cloud_tpu.sh"), what, **TPU)
    return found.returncode, [call for call in calls(folder / "gcloud") if "describe" not in call]


def test_a_slice_is_made_and_runs_the_command_on_all_hosts(tmp_path):
    status, (create, prepare, train) = tpu(tmp_path, "run", ["", "WAITING_FOR_RESOURCES", "ACTIVE"], [0])
    assert status == 0 and create[:5] == ["compute", "tpus", "queued-resources", "create", "seqjax"]
    for word in ("--node-id=seqjax", "--accelerator-type=v5litepod-16", "--runtime-version=v2-alpha-tpuv5-lite", "--spot"):
        assert word in create
    for call in (prepare, train):
        assert call[:5] == ["compute", "tpus", "tpu-vm", "ssh", "seqjax"] and "--worker=all" in call
        assert bash(tmp_path, "-n", "-c", call[-1].removeprefix("--command=")).returncode == 0
    assert "mount 10.0.0.2:/share /shared" in prepare[-1] and '"seqjax[experiments] @ git+x"' in prepare[-1]
    python = tmp_path / "seqjax" / "bin" / "python"
    stand_in(python)
    assert bash(tmp_path, "-c", train[-1].removeprefix("--command=")).returncode == 0
    assert taken(calls(python)[0], 4) == "auto"


def test_a_preempted_slice_is_asked_for_again(tmp_path):
    states = ["ACTIVE", "SUSPENDED", "SUSPENDED", "", "PROVISIONING", "ACTIVE"]
    status, found = tpu(tmp_path, "run", states, [255, 0])
    assert status == 0
    assert [call[3] for call in found] == ["ssh", "ssh", "delete", "create", "ssh", "ssh"]


def test_a_run_that_failed_on_a_slice_that_is_there_ends(tmp_path):
    status, found = tpu(tmp_path, "run", ["ACTIVE", "ACTIVE"], [1])
    assert status == 1 and [call[3] for call in found] == ["ssh", "ssh"]
    status, found = tpu(tmp_path, "doctor", ["ACTIVE"], [0])
    assert status == 0 and found[-1][-1].endswith("--doctor")


def test_a_slice_that_is_lost_while_it_is_prepared_is_asked_for_again(tmp_path):
    (tmp_path / "prepared").write_text("255\n0\n")
    status, found = tpu(tmp_path, "run", ["ACTIVE", "SUSPENDED", "SUSPENDED", "", "ACTIVE"], [0])
    assert status == 0 and [call[3] for call in found] == ["ssh", "delete", "create", "ssh", "ssh"]


def test_a_service_that_does_not_answer_is_asked_again_and_one_that_knows_no_request_gets_one(tmp_path):
    status, found = tpu(tmp_path, "run", ["ERROR: 503", "ERROR: NOT_FOUND: no such request", "ACTIVE"], [0])
    assert status == 0 and [call[3] for call in found] == ["create", "ssh", "ssh"]
    (tmp_path / "refused").touch()
    status, found = tpu(tmp_path, "run", ["ERROR: NOT_FOUND"], [])
    assert status == 1


def test_wrong_use_of_the_script(tmp_path):
    assert bash(tmp_path, str(LAUNCH / "cloud_tpu.sh"), "run").returncode != 0  # PROJECT is not set
    assert bash(tmp_path, str(LAUNCH / "cloud_tpu.sh"), **TPU).returncode == 2
    assert "usage" in bash(tmp_path, str(LAUNCH / "cloud_tpu.sh"), "x", **TPU).stderr


def test_every_file_is_tried_here():
    assert {path.name for path in LAUNCH.iterdir() if path.is_file()} == {
        "slurm.sbatch", "submitit_slurm.py", "jobset.yaml", "skypilot.yaml", "skypilot_volume.yaml", "cloud_tpu.sh",
    }  # fmt: skip
    assert os.access(LAUNCH / "cloud_tpu.sh", os.X_OK)
