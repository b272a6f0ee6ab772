//! The description of a system, on the command line and in a file.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use anyhow::Context as _;
use clap::{Args, ValueEnum as _};
use measuring_kit::{Link, Programs};
use serde::Deserialize;
use serde_json::{Map, Value};

use super::system::{Origin, Reachable, System};
use crate::frontend::{FrontendArgs, FrontendName, LOCALHOST, Place};
use crate::process::Process;

/// Keys that may be there several times.
const LISTS: [&str; 3] = ["pid", "server-arg", "agent-arg"];

/// The keys that systems of ours may leave out.
#[derive(Debug, Args)]
pub(super) struct Defaults {
    /// How ours are dialled, unless a system says it.
    #[arg(long, value_enum, default_value = "connect-uds")]
    frontend: FrontendName,
    #[command(flatten)]
    programs: Programs,
}

/// The keys of a description.
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
    /// Describes ours on a link.
    pub(super) fn ours(link: Link) -> Self {
        Self { ours: Some(link.name().to_owned()), ..Self::default() }
    }

    pub(super) fn resolve(self, defaults: &Defaults) -> anyhow::Result<System> {
        let name = match (&self.name, &self.ours) {
            (Some(name), _) => name.clone(),
            (None, Some(link)) => format!("ours-{link}"),
            (None, None) => anyhow::bail!("a system has no name"),
        };
        let origin = match (&self.ours, &self.start) {
            (None, None) => Origin::Running(self.reachable()?),
            (Some(link), None) => self.started_by_us(link, defaults)?,
            (None, Some(command)) => {
                anyhow::ensure!(self.places() == 0 && self.pid.is_empty(), "{name}: start says where it is");
                Origin::Started(command.split_whitespace().map(str::to_owned).collect())
            }
            (Some(_), Some(_)) => anyhow::bail!("{name}: ours and start exclude each other"),
        };
        Ok(System { name, origin })
    }

    fn started_by_us(&self, link: &str, defaults: &Defaults) -> anyhow::Result<Origin> {
        anyhow::ensure!(
            self.places() == 0 && self.pid.is_empty(),
            "ours is started here: no frontend, no pid"
        );
        let link = Link::from_str(link, false).map_err(anyhow::Error::msg).context("ours")?;
        let frontend = match &self.frontend {
            Some(name) => {
                FrontendName::from_str(name, false).map_err(anyhow::Error::msg).context("frontend")?
            }
            None => defaults.frontend,
        };
        let Programs { server_bin, agent_bin, server_arg, agent_arg } = &defaults.programs;
        let programs = Programs {
            server_bin: self.server_bin.as_ref().unwrap_or(server_bin).clone(),
            agent_bin: self.agent_bin.as_ref().unwrap_or(agent_bin).clone(),
            server_arg: [server_arg.clone(), self.server_arg.clone()].concat(),
            agent_arg: [agent_arg.clone(), self.agent_arg.clone()].concat(),
        };
        Ok(Origin::Ours { programs, link, frontend })
    }

    /// The frontend and the processes of a running system.
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
    use crate::tasks::compare::args::CompareArgs;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CompareArgs,
    }

    fn resolve(flags: &[&str]) -> anyhow::Result<(Vec<System>, usize)> {
        Line::try_parse_from(["compare"].iter().chain(flags))?.args.systems()
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
        assert_eq!((programs.server_bin.to_str(), *link), (Some("/new"), Link::Quic));
        assert_eq!(programs.server_arg, ["--all", "--v=2", "--x"]);
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
        assert_eq!(programs.agent_arg, ["--one=1,2"]);
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
