"""The command line."""

import argparse
import os

FRONTENDS = ("grpc-uds", "connect-uds", "connect-tcp")
LINKS = ("quic", "h2", "konnectivity")


def parse(arguments, check_names, usual):
    parser = argparse.ArgumentParser(
        prog="tests/e2e/run", description="Run the tunnel's end-to-end suite on a real cluster on this machine.")
    parser.add_argument("--bin-dir", default=_default_bin_dir(), metavar="DIR",
                        help="where tunnel-server and tunnel-agent are (default: target/release)")
    parser.add_argument("--previous-bin-dir", metavar="DIR",
                        help="the previous release's programs, for `chart`; they take the chart's flags (default: --bin-dir)")
    parser.add_argument("--kubernetes", choices=("newest", "oldest"), default="newest",
                        help="the version to build and cache (default: newest)")
    parser.add_argument("--kube-bin-dir", default=os.environ.get("E2E_KUBE_BIN_DIR"), metavar="DIR",
                        help="ready kube-apiserver, kubelet and, if not the machine's, kubectl of any version "
                             "(default: $E2E_KUBE_BIN_DIR)")
    parser.add_argument("--frontends", type=_list(FRONTENDS), default=list(FRONTENDS), metavar=",".join(FRONTENDS))
    parser.add_argument("--links", type=_list(LINKS), default=list(LINKS), metavar=",".join(LINKS))
    parser.add_argument("--only", type=_list(check_names), default=list(usual), metavar="NAME,...",
                        help="checks to run: " + ", ".join(check_names))
    parser.add_argument("--prepare", action="store_true",
                        help="install and build what the chosen checks need besides the tunnel, and end")
    parser.add_argument("--keep", action="store_true", help="keep the work directory with all logs")
    parser.add_argument("--direct", action="store_true",
                        help="no tunnel and no firewall: only for working on the suite, always exits with 3")
    return parser.parse_args(arguments)


def _list(allowed):
    def convert(text):
        names = [name for name in text.split(",") if name]
        unknown = [name for name in names if name not in allowed]
        if unknown or not names:
            raise argparse.ArgumentTypeError(f"{', '.join(unknown) or 'nothing'}: choose from {', '.join(allowed)}")
        return names
    return convert


def _default_bin_dir():
    here = os.path.dirname(os.path.abspath(__file__))
    return os.path.normpath(os.path.join(here, "..", "..", "..", "target", "release"))
