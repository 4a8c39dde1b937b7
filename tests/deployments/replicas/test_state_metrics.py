"""The gauges of a router follow its routes, replicas and queues."""

from __future__ import annotations

import asyncio

from deployments.replicas.state_metrics import METRICS, state_of
from router.admission.context import AdmissionContext
from router.admission.controller import Admission
from router.table import Deadlines, Limits
from tests.fakes.cluster import Cluster, gateway_to, settle, table
from tests.fakes.models import GONE, Pause, in_virtual_time


def test_models_that_do_not_answer_are_down():
    async def main() -> None:
        cluster = Cluster(law=[[GONE]] * 3 + [[Pause()]])
        async with gateway_to(cluster, table("chem", "law")) as gateway:
            await settle(0.05)
            found = dict(state_of(gateway, lambda app: cluster.models[app].replicas))
            assert {
                values[0]: value for (name, values), value in found.items() if name == "etr_model_up"
            } == {
                "meta": 1,
                "chem": 1,
                "law": 0,
            }
            assert found["etr_replicas", ("chem", "healthy")] == 1
            assert found["etr_replicas", ("chem", "ejected")] == 0
            assert {name for name, _ in found} <= METRICS.keys()

    in_virtual_time(main())


def test_a_queue_is_full_when_the_next_call_would_be_refused():
    async def main() -> None:
        limits, deadlines = Limits(max_waiting=4), Deadlines(queue_s=10)
        cluster = Cluster()
        async with gateway_to(cluster, table("chem", limits=limits, deadlines=deadlines)) as gateway:
            await settle(0.05)
            context = AdmissionContext(deadlines.queue_s, limits.max_waiting)
            async with asyncio.TaskGroup() as group:
                num_slots = gateway.num_slots("chem")
                held = [group.create_task(_hold(gateway.admission, context)) for _ in range(num_slots + 2)]
                await settle(0.05)
                found = dict(state_of(gateway, lambda app: cluster.models[app].replicas))
                assert found["etr_waiting_calls", ("chem",)] == 2
                assert found["etr_queue_fill", ("chem",)] == 0.5
                for task in held:
                    task.cancel()

    in_virtual_time(main())


async def _hold(admission: Admission, context: AdmissionContext) -> None:
    async with admission.slot("chem", "chem", context, has_output=False, left_s=600):
        await asyncio.Event().wait()
