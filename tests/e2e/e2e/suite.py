"""The order of things: prepare, make the cluster, one pass for each link, remove the cluster."""

import os
import signal
import threading

from . import kubenewest, kubernetes, leftovers, machine, options
from .checks import catalog
from .checks import link as link_check
from .checks.context import Context
from .cluster import NODE, Cluster, cache_root
from .fail import Unusable
from .parallel import for_each
from .report import Report
from .tunnel import TunnelAgent, TunnelServer

DIRECT_EXIT = 3


def main(arguments):
    chosen = options.parse(arguments, catalog.NAMES, catalog.USUAL)
    report = Report()
    _interrupt_on_signals()
    try:
        if chosen.prepare:
            return _prepare(chosen, report)
        _run(chosen, report)
    except KeyboardInterrupt:
        report.give_up("interrupted")
    except Unusable as error:
        report.give_up(str(error))
    except Exception as error:  # noqa: BLE001 - the suite itself failed, which is a failure
        report.give_up_with_trace(error)
    if chosen.direct:
        report.say("direct mode: nothing of the tunnel was tested, so this run proves nothing and ends with code 3")
    code = report.finish()
    return DIRECT_EXIT if chosen.direct else code


def _prepare(chosen, report):
    """The tunnel's programs need not be there yet."""
    machine.prepare(report.say, with_kubectl=not kubernetes.brings_kubectl(chosen), with_strace="identity" in chosen.only)
    programs = kubernetes.find(chosen, cache_root(), report.say)
    if any(name in catalog.CLUSTERS for name in chosen.only):
        kubernetes.find_kubeadm(chosen, cache_root(), report.say, kubenewest.KONNECTIVITY)
    report.say(f"ready for Kubernetes {programs.version}")
    return 0


def _run(chosen, report):
    if not chosen.direct:
        TunnelServer.find(chosen.bin_dir)
        TunnelAgent.find(chosen.bin_dir)
    machine.prepare(report.say, with_kubectl=not kubernetes.brings_kubectl(chosen), with_strace="identity" in chosen.only)
    leftovers.clean_abandoned(report.say)
    programs = kubernetes.find(chosen, cache_root(), report.say)
    _leave_out_newer(chosen, programs, report.say)
    _forget_proxies()
    if any(name in catalog.USUAL for name in chosen.only):
        _usual(chosen, report, programs)
    for name in [name for name in catalog.CLUSTERS if name in chosen.only]:
        catalog.CLUSTERS[name](chosen, report)


def _usual(chosen, report, programs):
    """Everything that shares one cluster."""
    with Cluster(chosen, report.say) as cluster:
        report.log_tails = cluster.log_tails
        try:
            World(chosen, report, cluster).run(programs)
        except KeyboardInterrupt:
            report.silence()
            raise
        except Exception as error:  # noqa: BLE001 - reported while the logs still exist
            report.give_up_with_trace(error, cluster.all_log_tails)


class World:
    """What a pass works on. The disruptions use it whole, the other checks through a `Context`."""

    def __init__(self, chosen, report, cluster):
        self.chosen, self.report, self.cluster = chosen, report, cluster
        self.server = self.agent = self.link = None
        self.contexts = []

    def run(self, programs):
        self.cluster.create(programs, self._make_server)
        self.cluster.populate()
        for link in ["none"] if self.chosen.direct else self.chosen.links:
            if self._wanted(catalog.PASS):
                self._pass(link)
        if not self.chosen.direct:
            self._scenarios()

    def _make_server(self, cluster):
        if self.chosen.direct:
            return None
        self.server = TunnelServer(self.chosen.bin_dir, cluster.directory, cluster.network, cluster.pki, cluster.processes)
        self.agent = TunnelAgent(self.chosen.bin_dir, NODE, self.server, cluster.pki, cluster.processes)
        self.server.start()
        self.server.wait_up()
        return self.server

    def _pass(self, link):
        """All checks over one link. A link that does not come up fails its pass and not the next one."""
        self.link = link
        bulk = threading.Lock()  # Bulk transfers of several frontends at once would only measure the processor.
        self.contexts = [Context(self.cluster, frontend, link, bulk) for frontend in self.cluster.frontends]
        if self.chosen.direct:
            self._checks()
            return
        for_each(self.contexts, self._before)
        if self.report.check(f"all/{link}", f"the agent connects over {link}", self._connect):
            self._checks()
            self._disrupt()
        self.agent.stop()
        self.server.wait_without_agent()

    def _scenarios(self):
        """Each gives its own verdicts, and leaves neither server nor agent running."""
        self.link = "h2" if "h2" in self.chosen.links else self.chosen.links[-1]
        self.contexts = [Context(self.cluster, f, "scenario", threading.Lock()) for f in self.cluster.frontends]
        for name in self._wanted(catalog.SCENARIOS):
            self.agent.stop()
            self.server.process.end()
            try:
                catalog.SCENARIOS[name](self)
            except Exception as error:  # noqa: BLE001 - the next scenario may still work
                self.report.failed_to_run("all", name, error)

    def _connect(self):
        self.agent.start(self.link)
        self.server.wait_for(self.agent)
        link_check.verify(self.agent, self.link)

    def _checks(self):
        for_each([*self._beside(), *self._steps()], lambda task: task())

    def _disrupt(self):
        """A disruption gives its own verdicts; only when it cannot be carried out is it one itself."""
        for name in self._wanted(catalog.DISRUPTIONS):
            try:
                catalog.DISRUPTIONS[name](self)
            except Exception as error:  # noqa: BLE001 - the next disruption may still work
                self.report.failed_to_run(f"all/{self.link}", name, error)

    def _before(self, ctx):
        for name in self._wanted(catalog.BEFORE):
            self._check(ctx, *catalog.BEFORE[name])

    def _beside(self):
        for name in self._wanted(catalog.BESIDE):
            for ctx in self.contexts:
                yield lambda ctx=ctx, name=name: self._check(ctx, *catalog.BESIDE[name])

    def _steps(self):
        for ctx in self.contexts:
            yield lambda ctx=ctx: self._steps_of(ctx)

    def _steps_of(self, ctx):
        for name in self._wanted(catalog.STEPS):
            for title, body in catalog.STEPS[name]:
                self._check(ctx, title, body)

    def _check(self, ctx, title, body):
        self.report.check(ctx.where, title, lambda: body(ctx))

    def _wanted(self, names):
        return [name for name in names if name in self.chosen.only]


def _leave_out_newer(chosen, programs, say):
    newer = [name for name in chosen.only if not programs.since(catalog.SINCE.get(name, 0))]
    chosen.only = [name for name in chosen.only if name not in newer]
    if newer:
        say(f"left out, because Kubernetes {programs.version} is older: {', '.join(newer)}")


def _forget_proxies():
    """Package downloads may need a proxy; nothing in the cluster may use one."""
    for name in [n for n in os.environ if n.lower() in ("http_proxy", "https_proxy", "all_proxy")]:
        del os.environ[name]


def _interrupt_on_signals():
    """Every usual way to be told to stop leads through the same clean-up, which a second one does not interrupt."""
    told = []

    def interrupt(number, _):
        told.append(number)
        if len(told) == 1:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
