"""Certifications with Ray over the nodes of a job end with the certificates of one in a single process."""

import lab
import pytest
import tiny

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


def test_a_certification_on_two_nodes_completes(certification, certified, place):
    number = lab.submit("certify", place / "run", *certification, "--nodes", 2)
    lab.await_end(number)
    assert "on 2 workers" in lab.log(place / "run")
    assert tiny.columns(place / "run") == tiny.columns(certified)


def test_parts_that_are_jobs_of_their_own_are_merged_to_the_run_over_all_images(certification, certified, place):
    words = [*certification, "--workers", 0, "--images"]
    numbers = [lab.submit("certify", place / f"part-{part}", *words, f"{4 * part}::12") for part in range(3)]
    for number in numbers:
        lab.await_end(number)
    merged = tiny.cli("merge", *sorted(place.glob("part-*")), "--into", place / "all")
    assert merged.status == 0, merged.err
    assert tiny.columns(place / "all") == tiny.columns(certified)
    assert tiny.cli("verify", place / "all").status == 0


def test_a_certification_that_is_preempted_and_then_loses_a_node_goes_on(certification, certified, place, laboratory):
    ledger, looks = place / "run" / "ledger.jsonl", tiny.lines(certified / "ledger.jsonl")
    number = lab.submit("certify", place / "run", *certification, "--nodes", 2)
    lab.await_lines(ledger, looks // 5)
    lab.preempt()
    assert lab.await_restart(number) == "n[1-2]"
    lab.await_lines(ledger, looks // 2)
    lab.declare_dead("n2")
    assert lab.await_end(number)["Restarts"] == "2"
    assert tiny.columns(place / "run") == tiny.columns(certified)
