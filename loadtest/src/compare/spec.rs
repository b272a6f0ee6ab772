//! How a system is described, on the command line and in a file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use clap::ValueEnum as _;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::args::CompareArgs;
use super::system::{Origin, Reachable, System};
use crate::cli::{FrontendArgs, FrontendName, LOCALHOST, Link, Place};
use crate::matrix::tunnel::Programs;
use crate::process::Process;

/// Keys that may be there several times.
const LISTS: [&str; 3] = ["pid", "server-arg", "agent-arg"];

/// A system in the words of the user.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub(super) struct Spec {
    name: Option<String>,
    connect_uds: Option<PathBuf>,
    grpc_uds: Option<PathBuf>,
    connect_tcp: Option<SocketAddr>,
    grpc_tcp: Option<SocketAddr>,
    ca: Option<PathBuf>,
    cert: Option<PathBuf>,
    key: Option<PathBuf>,
    server_name: Option<String>,
    pid: Vec<String>,
    ours: Option<String>,
    frontend: Option<String>,
    server_bin: Option<PathBuf>,
    agent_bin: Option<PathBuf>,
    server_arg: Vec<String>,
    agent_arg: Vec<String>,
    start: Option<String>,
}

impl FromStr for Spec {
    type Err = anyhow::Error;

    /// `KEY=VALUE,KEY=VALUE`
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut object = Map::new();
        for pair in text.split(',') {
            let (key, value) = pair.split_once('=').with_context(|| format!("{pair:?} is not KEY=VALUE"))?;
            let value = Value::from(value);
            if LISTS.contains(&key) {
                let list = object.entry(key).or_insert_with(|| Value::Array(Vec::new()));
                list.as_array_mut().context("a list")?.push(value);
            } else {
                anyhow::ensure!(object.insert(key.to_owned(), value).is_none(), "{key} is there twice");
            }
        }
        Ok(serde_json::from_value(Value::Object(object))?)
    }
}

impl Spec {
    /// Ours on a link.
    pub(super) fn ours(link: Link) -> Self {
        Self { ours: Some(link.name().to_owned()), ..Self::default() }
    }

    /// The system that is meant; what it does not say of ours is in `args`.
    pub(super) fn resolve(self, args: &CompareArgs) -> anyhow::Result<System> {
        let name = match (&self.name, &self.ours) {
            (Some(name), _) => name.clone(),
            (None, Some(link)) => format!("ours-{link}"),
            (None, None) => anyhow::bail!("a system has no name"),
        };
        let origin = match (&self.ours, &self.start) {
            (None, None) => Origin::Running(self.reachable()?),
            (Some(link), None) => self.started_by_us(link, args)?,
            (None, Some(command)) => {
                anyhow::ensure!(self.places() == 0 && self.pid.is_empty(), "{name}: start says where it is");
                Origin::Started(command.split_whitespace().map(str::to_owned).collect())
            }
            (Some(_), Some(_)) => anyhow::bail!("{name}: ours and start exclude each other"),
        };
        Ok(System { name, origin })
    }

    fn started_by_us(&self, link: &str, args: &CompareArgs) -> anyhow::Result<Origin> {
        anyhow::ensure!(
            self.places() == 0 && self.pid.is_empty(),
            "ours is started here: no frontend, no pid"
        );
        let link = Link::from_str(link, false).map_err(anyhow::Error::msg).context("ours")?;
        let frontend = match &self.frontend {
            Some(name) => {
                FrontendName::from_str(name, false).map_err(anyhow::Error::msg).context("frontend")?
            }
            None => args.frontend,
        };
        let programs = Programs {
            server: self.server_bin.clone().unwrap_or_else(|| args.server_bin.clone()),
            agent: self.agent_bin.clone().unwrap_or_else(|| args.agent_bin.clone()),
            server_flags: [args.server_arg.clone(), self.server_arg.clone()].concat(),
            agent_flags: [args.agent_arg.clone(), self.agent_arg.clone()].concat(),
        };
        Ok(Origin::Ours { programs, link, frontend })
    }

    /// Where a running system is, and which its processes are.
    pub(super) fn reachable(self) -> anyhow::Result<Reachable> {
        anyhow::ensure!(
            self.places() == 1,
            "a system needs one of connect-uds, grpc-uds, connect-tcp, grpc-tcp"
        );
        let only_ours = self.frontend.is_some() || self.server_bin.is_some() || self.agent_bin.is_some();
        let flags = !self.server_arg.is_empty() || !self.agent_arg.is_empty();
        anyhow::ensure!(!only_ours && !flags, "frontend, programs and their flags are for ours");
        let processes = self.pid.iter().map(|text| process(text)).collect::<Result<_, _>>()?;
        let (connect_uds, grpc_uds) = (self.connect_uds, self.grpc_uds);
        let frontend = FrontendArgs {
            place: Place { connect_uds, grpc_uds, connect_tcp: self.connect_tcp, grpc_tcp: self.grpc_tcp },
            ca: self.ca,
            cert: self.cert,
            key: self.key,
            server_name: self.server_name.unwrap_or_else(|| LOCALHOST.into()),
        };
        Ok(Reachable { frontend: frontend.resolve()?, processes })
    }

    fn places(&self) -> usize {
        let unix = usize::from(self.connect_uds.is_some()) + usize::from(self.grpc_uds.is_some());
        unix + usize::from(self.connect_tcp.is_some()) + usize::from(self.grpc_tcp.is_some())
    }
}

/// `NAME:PID`
fn process(text: &str) -> anyhow::Result<Process> {
    let (name, pid) = text.split_once(':').with_context(|| format!("pid={text} is not NAME:PID"))?;
    format!("{name}={pid}").parse()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::{Cli, Task};
    use clap::Parser as _;

    fn resolve(flags: &[&str]) -> anyhow::Result<(Vec<System>, usize)> {
        let words = ["loadtest", "compare"].iter().chain(flags);
        let Task::Compare(args) = Cli::try_parse_from(words)?.task else { panic!("not compare") };
        args.systems()
    }

    fn error(spec: &str) -> String {
        format!("{:#}", resolve(&["--system", spec, "--ours=h2"]).unwrap_err())
    }

    #[test]
    fn systems_are_described_by_pairs() {
        let me = std::process::id();
        let running = format!("name=other,grpc-uds=/run/s,pid=server:{me},pid=agent:{me}");
        let new = "ours=quic,name=new,frontend=grpc-uds,server-bin=/new,server-arg=--v=2,server-arg=--x";
        let script = "name=script,start=/bin/run grpc";
        let flags = ["--ours=h2,quic", "--system", &running, "--system", new, "--system", script];
        let (systems, baseline) =
            resolve(&[&flags[..], &["--server-arg=--all", "--baseline=new"]].concat()).unwrap();
        let names: Vec<&str> = systems.iter().map(|system| system.name.as_str()).collect();
        assert_eq!(names, ["other", "new", "script", "ours-h2", "ours-quic"]);
        assert_eq!(baseline, 1);
        let Origin::Running(reachable) = &systems[0].origin else { panic!("{systems:?}") };
        assert_eq!(reachable.frontend.name, "grpc-uds");
        assert_eq!(reachable.processes[1], Process { name: "agent".into(), pid: me });
        let Origin::Ours { programs, link, frontend } = &systems[1].origin else { panic!("{systems:?}") };
        assert_eq!((programs.server.to_str(), *link), (Some("/new"), Link::Quic));
        assert_eq!(programs.server_flags, ["--all", "--v=2", "--x"]);
        assert_eq!(*frontend, FrontendName::GrpcUds);
        let Origin::Started(command) = &systems[2].origin else { panic!("{systems:?}") };
        assert_eq!(command, &["/bin/run", "grpc"]);
    }

    #[test]
    fn a_file_says_the_same() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path().to_str().unwrap();
        let text = r#"[{"name": "a", "ours": "h2", "agent-arg": ["--one=1,2"]}, {"name": "b", "connect-uds": "/s"}]"#;
        std::fs::write(path, text).unwrap();
        let (systems, _) = resolve(&["--systems", path]).unwrap();
        let Origin::Ours { programs, .. } = &systems[0].origin else { panic!("{systems:?}") };
        assert_eq!(programs.agent_flags, ["--one=1,2"]);
        std::fs::write(path, r#"[{"name": "a", "colour": "red"}]"#).unwrap();
        assert!(format!("{:#}", resolve(&["--systems", path]).unwrap_err()).contains("colour"));
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        for (spec, words) in [
            ("connect-uds=/s", "has no name"),
            ("name=a", "needs one of"),
            ("name=a,connect-uds=/s,grpc-uds=/t", "needs one of"),
            ("name=a,connect-uds=/s,server-bin=/x", "for ours"),
            ("name=a,connect-tcp=127.0.0.1:1", "TCP needs --ca"),
            ("name=a,connect-uds=/s,pid=12", "not NAME:PID"),
            ("name=a,connect-uds=/s,pid=x:4194305", "is gone"),
            ("name=a,ours=carrier-pigeon", "carrier-pigeon"),
            ("name=a,ours=h2,start=/x", "exclude"),
            ("name=ours-h2,connect-uds=/s", "two systems are called ours-h2"),
        ] {
            assert!(error(spec).contains(words), "{spec}: {}", error(spec));
        }
        assert!(resolve(&["--ours=h2"]).unwrap_err().to_string().contains("two systems"));
        assert!(resolve(&["--ours=h2,quic", "--baseline=x"]).is_err());
        assert!("name=a,colour=red".parse::<Spec>().is_err());
        assert!("name=a,name=b".parse::<Spec>().is_err());
        assert!("name".parse::<Spec>().is_err());
    }
}
