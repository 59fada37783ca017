"""Processes of a run in two that are killed: no example is lost or repeated, and the search for such would find one. See kills.py."""

import os

import kills
import pytest


@pytest.mark.slow
def test_nothing_is_lost_or_repeated(server, tmp_path):
    found = kills.Kills(server, tmp_path, int(os.environ.get("SEQJAX_KILLS", 4)))
    found.straight()
    for _ in range(found.kills):
        found.kill()
    assert found.finish()["kills"] == found.kills


@pytest.mark.slow
def test_a_run_that_restarts_its_data_is_found(server, tmp_path, monkeypatch):
    monkeypatch.setattr(kills, "STARTING", 0.0)
    found = kills.Kills(server, tmp_path, 2)
    found.straight()
    found.kill(wait=kills.EVERY)
    with pytest.raises(AssertionError, match="process 0 took other batches from step"):
        found.kill(forget="data")
