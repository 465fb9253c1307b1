"""What the doctor reads from files."""

from __future__ import annotations

from cluster.resources.doctor import compare_with_lock, examine, torch_cuda_version


def test_the_lock_is_compared_by_normalised_name_and_public_version():
    lock = "torch==2.13.0\ntypes-pyyaml==6.0.12  # comment\nray==2.60.0\nabsent-one==1.0\n"
    installed = {"torch": "2.13.0+cpu", "types-pyyaml": "6.0.12", "ray": "2.59.0"}
    assert compare_with_lock(lock, installed) == (["absent-one"], ["ray 2.59.0≠2.60.0"])


def test_a_cuda_build_is_seen_without_importing_it():
    assert torch_cuda_version("cuda: Optional[str] = '13.0'\n") == "13.0"
    assert torch_cuda_version("cuda = None\nhip = None\n") is None


def test_every_shortcoming_comes_with_its_fix():
    assert all(finding.fix for finding in examine() if finding.verdict != "ok")
