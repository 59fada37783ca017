"""One run on nodes of a SLURM cluster, a process for each GPU, sent by submitit; a preempted or timed-out job resumes by itself.

    python launch/submitit_slurm.py --workdir=/shared/lm --partition=gpu
    python launch/submitit_slurm.py --workdir=/tmp/lm --cluster=debug     # in this process, without SLURM

When SLURM signals the end of the job, process 0 stops its command by SIGTERM, which stops all of them with a checkpoint, and submitit
requeues the job; the same command resumes. Needs `pip install submitit`.
"""

import argparse
import os
import signal
import subprocess
import sys
import time

import submitit

COMMAND = (
    "-m", "seqjax", "language_model", "--config=char_large", "--config.data.batch_size=512", "--config.data.eval_batch_size=512",
    "--distributed=auto",
)  # fmt: skip
STOPPED = 128 + signal.SIGTERM  # the status of a run that SIGTERM stopped with a checkpoint


class Training:
    """A command that is run once a task, and again when the job is requeued."""

    def __init__(self, command):
        self.command = command

    def __call__(self):
        """Waits for the command; its exit status, unless it failed."""
        self.process = subprocess.Popen(self.command)
        while self.process.poll() is None:  # wait() would hold a lock that checkpoint() needs
            time.sleep(0.1)
        if self.process.returncode not in (0, STOPPED):
            raise RuntimeError(f"the command ended with status {self.process.returncode}: {' '.join(self.command)}")
        return self.process.returncode

    def checkpoint(self):
        """Called by submitit in task 0 before the job ends: stops the run, and gives what is to be done next time."""
        self.process.terminate()
        os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT)
        return submitit.helpers.DelayedSubmission(Training(self.command))


def main(argv=None):
    """Sends the job; waits for it only where it runs on this machine."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True, help="on a file system that all nodes share")
    parser.add_argument("--logs", default="submitit_logs", help="folder of what the processes print; shared too")
    parser.add_argument("--cluster", default="slurm", choices=("slurm", "local", "debug"))
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--gpus", type=int, default=8, help="of a node")
    parser.add_argument("--hours", type=float, default=24.0)
    parser.add_argument("--partition", default=None)
    options, further = parser.parse_known_args(argv)  # further flags are the experiment's
    executor = submitit.AutoExecutor(folder=options.logs, cluster=options.cluster, slurm_max_num_timeout=1000)
    if options.cluster == "slurm":
        executor.update_parameters(
            name="seqjax", nodes=options.nodes, tasks_per_node=options.gpus, gpus_per_node=options.gpus, cpus_per_task=8,
            timeout_min=int(60 * options.hours), slurm_partition=options.partition, slurm_signal_delay_s=180,
            slurm_srun_args=["--gpu-bind=none"],
        )  # fmt: skip
    else:
        executor.update_parameters(timeout_min=int(60 * options.hours))
    job = executor.submit(Training([sys.executable, *COMMAND, f"--workdir={options.workdir}", *further]))
    print(f"job {job.job_id}; it writes to {job.paths.folder}")
    return 0 if options.cluster == "slurm" else job.result()


if __name__ == "__main__":
    sys.exit(main())
