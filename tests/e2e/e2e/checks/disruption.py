"""The agent and the server are killed and started again, under all frontends at once.

Each disturbs every frontend, so the frontends share one disturbance and each gives its own verdicts.
Programs are started on the main thread only, see `processes`.
"""

import time

from ..fail import CheckFailed
from ..parallel import for_each
from . import noagent, webhook
from .follower import Follower
from .recovery import TRY_SECONDS, seconds_until_works

# Over TCP the kernel tells the server of a killed agent. Over QUIC the server looks after silent ones, which takes it
# three seconds. The kube-apiserver and kubectl have to learn of it as well, each of which gets no processor for a moment
# on a busy machine. All of it takes less than the 15 s after which heartbeats would tell the server.
END_SECONDS = 8
# More than kubectl takes on a busy machine, and less than an attempt that hangs, which makes the check fail.
AGENT_BACK_SECONDS, AGENT_TRY_SECONDS = 8, 10
# Until the server notices that the old agent is gone, and less than a call that hangs: the webhook is given 10 s.
WEBHOOK_SECONDS = 10
SERVER_BACK_SECONDS = 30
DRAIN_BACK_SECONDS = 15


def agent_killed(world):
    """`kubectl logs -f` ends soon after the agent is killed, and a new agent serves the next command."""
    followers = _followers(world)
    killed = time.monotonic()
    world.agent.kill()
    for_each(world.contexts, lambda ctx: world.report.check(
        ctx.where, "logs -f ends when the agent is killed", lambda: _end(followers, ctx, killed, END_SECONDS)))
    for_each(world.contexts, lambda ctx: world.report.check(
        ctx.where, "kubectl names the agent that is gone", lambda: noagent.names_the_lost(ctx)))
    world.agent.start(world.link)
    _back(world, "the next command works with a new agent", AGENT_BACK_SECONDS, AGENT_TRY_SECONDS)


def agent_replaced(world):
    """A new agent comes at once after the kill, as a kubelet starts it: the server may still believe in the old one.

    Kept-alive connections of the API server lead to the old agent, so this can take until the
    server notices that it is gone. Webhooks always have one: a call before the kill makes it.
    """
    followers = _followers(world)
    for_each(world.contexts, lambda ctx: webhook.allow(ctx, "before"))
    killed = time.monotonic()
    world.agent.kill()
    world.agent.start(world.link)
    for_each(world.contexts, lambda ctx: world.report.check(
        ctx.where, "the webhook works with an agent that replaces it at once",
        lambda: webhook.allow_in_time(ctx, killed, WEBHOOK_SECONDS)))
    _back(world, "the next command works with an agent that replaces it at once", AGENT_BACK_SECONDS, AGENT_TRY_SECONDS)
    for_each(world.contexts, lambda ctx: world.report.check(
        ctx.where, "logs -f ends when the agent is replaced", lambda: _end(followers, ctx, killed, END_SECONDS)))


def server_killed(world):
    """SIGKILL leaves a stale socket file and agents that were told nothing."""
    world.server.process.kill()
    for_each(world.contexts, lambda ctx: world.report.check(
        ctx.where, "kubectl get nodes works without a server", lambda: noagent.cluster_lives(ctx)))
    world.server.start()
    _back(world, "works again after the server is killed", SERVER_BACK_SECONDS)


def server_terminated(world):
    """SIGTERM with an open stream: the server must end within its grace period and leave nothing behind."""
    followers = _followers(world)
    asked = time.monotonic()
    world.report.check(f"all/{world.link}", "the server drains and exits 0 on SIGTERM", world.server.terminate)
    limit = time.monotonic() - asked + END_SECONDS
    for_each(world.contexts, lambda ctx: world.report.check(
        ctx.where, "logs -f ends when the server drains", lambda: _end(followers, ctx, asked, limit)))
    world.server.start()
    _back(world, "works again after the server is restarted", DRAIN_BACK_SECONDS)


def _followers(world):
    """One for each frontend that works; a frontend without one fails its verdict, not the others'."""
    def start(ctx):
        try:
            return ctx, Follower(ctx)
        except Exception as error:  # noqa: BLE001 - becomes this frontend's verdict
            return ctx, error

    return dict(for_each(world.contexts, start))


def _end(followers, ctx, since, limit):
    follower = followers[ctx]
    if isinstance(follower, Exception):
        raise CheckFailed(f"logs -f did not even start: {follower}")
    return f"after {follower.seconds_until_end(since, limit):.1f} s"


def _back(world, name, limit, each=TRY_SECONDS):
    since = time.monotonic()

    def verdict(ctx):
        return f"after {seconds_until_works(ctx, since, limit, each):.1f} s"

    for_each(world.contexts, lambda ctx: world.report.check(ctx.where, name, lambda: verdict(ctx)))
