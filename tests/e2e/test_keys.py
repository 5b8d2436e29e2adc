"""`bitbudget keys` and `projects`, and a server that asks for keys."""

from __future__ import annotations

import json

import pytest


@pytest.fixture
def keyed(commands):
    commands.environment["BITBUDGET_AUTH"] = "keys"
    return commands


def test_a_key_opens_a_server_until_it_is_revoked(keyed, serve, fake_model):
    made = keyed.run("keys", "create", "--project", "vision", "--role", "member", "--expires", "90d", "--label", "Ada")
    assert made.returncode == 0, made.stderr
    key = made.stdout.strip()
    key_id = key.split("_")[1]
    assert f"key {key_id}, member of vision, valid until" in made.stderr
    url = serve().url
    refused = keyed.run("submit", str(fake_model.write()), "--server", url)
    assert refused.returncode == 1
    assert "This call needs a key" in refused.stderr
    assert keyed.run("submit", str(fake_model.write()), "--server", url, "--key", key).returncode == 0
    keyed.environment["BITBUDGET_KEY"] = key
    job_id = keyed.run("submit", str(fake_model.write()), "--server", url).stdout.strip()
    waited = keyed.run("status", job_id, "--wait", "--server", url)
    assert waited.returncode == 0, waited.stderr
    listed = keyed.run("keys", "list", "--project", "vision").stdout
    assert all(word in listed for word in (key_id, "vision", "member", "Ada"))
    assert key not in listed
    assert keyed.run("keys", "revoke", key_id).returncode == 0
    ended = keyed.run("status", "--server", url)
    assert (ended.returncode, "was revoked" in ended.stderr) == (1, True)
    assert "revoked" in keyed.run("keys", "list").stdout


def test_projects_have_quotas(commands):
    commands.run("keys", "create", "--project", "vision", "--role", "viewer")
    done = commands.run("projects", "set", "vision", "--max-queued", "7", "--keep-days", "30")
    assert done.returncode == 0, done.stderr
    row = next(line for line in commands.run("projects", "list").stdout.splitlines() if "vision" in line)
    assert "7" in row
    assert "30" in row
    unlimited = commands.run("projects", "set", "vision", "--max-queued", "none", "--json")
    (project,) = json.loads(unlimited.stdout)
    assert (project["name"], project["max_queued"], project["keep_days"]) == ("vision", None, 30)
    (key,) = json.loads(commands.run("keys", "list", "--project", "vision", "--json").stdout)
    assert (key["project"], key["role"], "key" in key) == ("vision", "viewer", False)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("keys", "create", "--project", "a b", "--role", "admin"), "the name of a project"),
        (("keys", "create", "--project", "a", "--role", "admin", "--expires", "soon"), "like 90d, 12h or 30m"),
        (("keys", "revoke", "0" * 12), "no key has the id"),
        (("projects", "set", "nobody", "--max-queued", "1"), "there is no project 'nobody'"),
        (("projects", "set", "default"), "nothing to set"),
        (("projects", "set", "default", "--max-queued", "few"), "--max-queued takes a number or none"),
        (("projects", "set", "default", "--max-samples", "0"), "max_samples must be 1 or more"),
    ],
)
def test_what_cannot_be_done_is_said(commands, words, said):
    done = commands.run(*words)
    assert (done.returncode, said in done.stderr) == (1, True), done.stderr


def test_an_address_for_everybody_needs_keys_or_a_word(commands, keyed, serve):
    del commands.environment["BITBUDGET_AUTH"]
    refused = commands.run("serve", "--host", "0.0.0.0", "--port", "0")
    assert refused.returncode == 1
    assert "BITBUDGET_AUTH=keys" in refused.stderr
    commands.environment["BITBUDGET_ALLOW_OPEN"] = "true"
    assert serve("--host", "0.0.0.0").http.get("/v1/jobs").status_code == 200
    commands.environment |= {"BITBUDGET_ALLOW_OPEN": "", "BITBUDGET_AUTH": "keys"}
    assert serve("--host", "0.0.0.0", "--no-worker").http.get("/v1/jobs").status_code == 401
