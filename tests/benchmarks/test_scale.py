"""The simulation of large clusters, at a small size."""

from __future__ import annotations

from benchmarks.scale.simulation import Size, simulate


def test_a_small_cluster_answers_all_streams_and_counts_its_probes():
    found = simulate(Size(num_routers=2, num_experts=10, num_replicas=4, num_streams=20))
    assert found["probes until all routers know all models"] == 2 * 11
    assert found["handles of all routers"] == 2 * 2
    assert found["probes in 10 s of one replica that hangs"] == 2 * 3
