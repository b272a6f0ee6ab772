"""A resource with two versions: the API server asks a webhook behind a service to convert between them."""

import json

from .. import objects, wait
from ..fail import expect

SERVED_SECONDS = 30
VERSION_1, VERSION_2 = (f"/apis/{objects.NOTES_GROUP}/{version}/namespaces/default/notes" for version in ("v1", "v2"))


def convert(ctx):
    """What was created as version 1 is read as version 2, with the mark of the pod that converted it."""
    name = f"note-{ctx.tag}"
    wait.until("the resource is served", lambda: ctx.kubectl.raw(VERSION_1), SERVED_SECONDS)
    ctx.kubectl.ok("create", "--raw", VERSION_1, "-f", "-", stdin=objects.note(name, "written down"))
    found = json.loads(ctx.kubectl.raw(f"{VERSION_2}/{name}"))
    got = found["apiVersion"], found.get("text"), found.get("convertedFrom")
    wanted = f"{objects.NOTES_GROUP}/v2", "written down", f"{objects.NOTES_GROUP}/v1"
    expect(got == wanted, f"read as {got}, not {wanted}")
