"""An aggregated API: its server is behind a service's cluster IP, so the API server reaches it by the tunnel only."""

import json

from .. import objects, wait

AVAILABLE_SECONDS = 30


def get_and_list(ctx):
    """The API server finds it available, kubectl finds its resource, and what it lists arrives."""
    group = f"{ctx.tag}.tunnel.test"
    objects.create_api_service(ctx.kubectl, group, ctx.cluster.pki.cluster.certificate)
    try:
        wait.until("the aggregated API is available", lambda: _available(ctx, group), AVAILABLE_SECONDS)
        wait.until("kubectl lists what it serves", lambda: _listed(ctx, group), AVAILABLE_SECONDS)
    finally:
        ctx.kubectl.try_("delete", "apiservice", f"v1.{group}")


def _available(ctx, group):
    found = json.loads(ctx.kubectl.ok("get", "apiservice", f"v1.{group}", "-o", "json"))
    return any(c["type"] == "Available" and c["status"] == "True" for c in found.get("status", {}).get("conditions", []))


def _listed(ctx, group):
    """Not at once: another API server may have found it available first, and this one learns of it by a watch."""
    result = ctx.kubectl.try_("get", f"greetings.v1.{group}", "-o", "jsonpath={.items[*].text}")
    return result.returncode == 0 and result.stdout == "hello from behind the tunnel"
