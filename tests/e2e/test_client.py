"""The client against a running server, on a pipeline of fake stages."""

from __future__ import annotations

import json

import anyio
import pytest

from bitbudget_client import AsyncClient, Client, Invalid, JobFailed, NotFound


def test_from_a_file_to_a_folder_and_nothing_is_left(shared_server, fake_model, tmp_path):
    seen = []
    with Client(shared_server.url, pieces_from_bytes=1) as client:
        result = client.plan(
            fake_model.write(), max_drop=0.5, name="first", progress=lambda job: seen.append(job.state)
        )
        assert (result.outcome, result.job.name, seen[-1]) == ("met", "first", "succeeded")
        assert {path.name for path in result.save(tmp_path / "out")} == {
            "model.onnx",
            "plan.json",
            "plan.csv",
            "frontier.json",
            "sensitivity.json",
        }
        assert (tmp_path / "out" / "model.onnx").read_bytes() == b"\x00\x01142.5"
        assert json.loads((tmp_path / "out" / "plan.json").read_text()) == result.plan
        assert result.layers[0].bits == 3

        states = [event.data["state"] for event in client.events(result.job.id) if event.kind == "state"]
        assert states == ["queued", "running", "succeeded"]
        again = result.replan(max_drop=0.25, progress=False)
        assert again.job.document["parent_id"] == result.job.id
        assert {job.id for job in client.jobs(limit=1)} == {result.job.id, again.job.id}

        for job in (again.job, result.job):
            client.delete_job(job.id)
        client.delete_model(result.job.document["model_id"])
        with pytest.raises(NotFound):
            client.job(result.job.id)
        assert list(client.models()) == []


def test_the_same_without_blocking(shared_server, fake_model, tmp_path):
    async def both() -> None:
        async with AsyncClient(shared_server.url) as client:
            result = await client.plan(fake_model.write("other", values=[1, 2, 3]), max_drop=0.5, progress=False)
            assert result.outcome == "met"
            assert len(await result.save(tmp_path / "out")) == 5
            assert (await anext(client.events(result.job.id))).kind == "state"
            model = await client.upload_model(fake_model.write("bad", trouble={"total": "refused"}))
            with pytest.raises(JobFailed, match="send numbers"):
                await client.plan(model, progress=False)
            with pytest.raises(Invalid) as raised:
                await client.submit(model, max_drop=-1)
            assert [error.field for error in raised.value.errors] == ["budget.max_drop"]

    anyio.run(both)
