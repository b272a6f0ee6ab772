//! `policy check`: what a policy file says about a destination. Asks no running program.

use std::net::IpAddr;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use tunnel_policy::{Policy, Subject, Verdict, spelling};
use tunnel_proto::target::{Host, Target};

use crate::output::{Paint, print, table};
use crate::report::Health;

const EXAMPLES: &str = "Examples:
  policy check policy.yaml 10.0.3.7:10250
  policy check policy.yaml 2852039166:80          # the metadata service, in decimal
  policy check policy.yaml webhook.ns.svc:443 --resolve
  policy check policy.yaml 10.0.3.7:22 --as cn:kube-apiserver --as o:system:masters
  policy check policy.yaml 10.0.3.7:22 --as uid:0

Exit codes: 0 allowed, 1 denied, 2 the file or the destination cannot be used.";

/// Commands about policies of destinations.
#[derive(Debug, Clone, Subcommand)]
pub enum PolicyCommand {
    /// Say whether a policy file allows a destination, and which rule decides. Needs no running
    /// program and no network.
    #[command(after_help = EXAMPLES)]
    Check(CheckArgs),
}

/// Flags of `policy check`.
#[derive(Debug, Clone, Args)]
pub struct CheckArgs {
    /// The policy file.
    #[arg(value_name = "FILE")]
    file: PathBuf,

    /// Destination, in any spelling; an IPv6 address in brackets.
    #[arg(value_name = "HOST:PORT")]
    target: String,

    /// Identity of the other end; may be given several times, for all of a client's. On a
    /// server: uid:NUMBER of a client on the Unix socket; cn:NAME, o:NAME, dns:NAME, ip:ADDRESS
    /// and spiffe://ID of one with a certificate. On an agent: the name in the server's
    /// certificate.
    #[arg(long = "as", value_name = "IDENTITY")]
    identities: Vec<Box<str>>,

    /// Look a name up with this host's resolver, and decide about its addresses as an agent does.
    #[arg(long)]
    resolve: bool,
}

impl PolicyCommand {
    pub(super) async fn run(self) -> Health {
        let Self::Check(args) = self;
        match args.checked().await {
            Ok((health, text)) => {
                print(&text);
                health
            }
            Err(why) => {
                print(&format!("{why}\n"));
                Health::Down
            }
        }
    }
}

impl CheckArgs {
    async fn checked(&self) -> Result<(Health, String), String> {
        let policy = Policy::read(&self.file).map_err(|error| error.to_string())?;
        let target = spelling::read(&self.target)?;
        let addresses = match target.host() {
            Host::Name(name) if self.resolve => Some(look_up(name, target.port()).await?),
            Host::Name(_) | Host::Ip(_) => None,
        };
        Ok(self.shown(&policy, &target, addresses.as_deref(), Paint::of_stdout()))
    }

    /// The verdict and its reasons. The destination is allowed if a server allows it as it is
    /// written and an agent allows one of its addresses.
    fn shown(
        &self,
        policy: &Policy,
        target: &Target,
        addresses: Option<&[IpAddr]>,
        paint: Paint,
    ) -> (Health, String) {
        let identity = self.identities.first().map(AsRef::as_ref);
        let subject = Subject { identity, also: self.identities.get(1..).unwrap_or_default() };
        let written = policy.decide(subject, target, None);
        let mut rows = vec![row(&target.to_string(), written)];
        let mut reached = addresses.is_none();
        for address in addresses.unwrap_or_default() {
            let verdict = policy.decide(subject, target, Some(*address));
            reached |= verdict.allow;
            rows.push(row(&format!("  {address}"), verdict));
        }
        let health = if written.allow && reached { Health::Ok } else { Health::Degraded };
        let verdict = if health == Health::Ok { "allowed" } else { "denied" };
        let mut text = format!("{}\n", paint.health(health, verdict));
        text += &table(&["DESTINATION", "VERDICT", "RULE", "REASON"], rows);
        if matches!(target.host(), Host::Name(_)) && addresses.is_none() {
            text += "A server decides about the name. An agent decides about each of its addresses: see --resolve.\n";
        }
        (health, text)
    }
}

fn row(destination: &str, verdict: Verdict<'_>) -> Vec<String> {
    let reason = match verdict.rule {
        "default" => "no rule is about it",
        rule if rule.starts_with("builtin/") => "no rule allows a network within this class by itself",
        _ => "the first rule about it",
    };
    let verb = if verdict.allow { "allow" } else { "deny" };
    [destination, verb, verdict.rule, reason].map(str::to_owned).to_vec()
}

async fn look_up(name: &str, port: u16) -> Result<Vec<IpAddr>, String> {
    let found = tokio::net::lookup_host((name, port)).await;
    Ok(found.map_err(|error| format!("look-up of {name}: {error}"))?.map(|addr| addr.ip()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: &str = "
default: allow
rules:
  - {name: loopback, action: deny, to: [127.0.0.0/8, '::1', localhost]}
  - {name: ssh, action: allow, ports: [22], identities: [admin]}
  - {name: no-ssh, action: deny, ports: [22]}
";

    fn args(target: &str, identities: &[&str]) -> CheckArgs {
        let identities = identities.iter().map(|&identity| identity.into()).collect();
        CheckArgs { file: PathBuf::new(), target: target.to_owned(), identities, resolve: false }
    }

    fn shown(target: &str, identities: &[&str], addresses: Option<&[&str]>) -> (Health, String) {
        let target = spelling::read(target).unwrap();
        let addresses: Option<Vec<_>> =
            addresses.map(|all| all.iter().map(|one| one.parse().unwrap()).collect());
        let policy = POLICY.parse().unwrap();
        args("", identities).shown(&policy, &target, addresses.as_deref(), Paint::plain())
    }

    #[test]
    fn a_verdict_names_its_rule_and_the_usual_spelling() {
        let (health, text) = shown("2852039166:80", &[], None);
        assert_eq!(health.exit_code(), 1);
        assert!(text.starts_with("denied\nDESTINATION "), "{text}");
        assert!(text.contains("\n169.254.169.254:80  deny     builtin/metadata  no rule allows"), "{text}");
        for identities in [&["admin"][..], &["cn:kube-apiserver", "admin"]] {
            let (health, text) = shown("10.0.0.1:22", identities, None);
            assert!(health == Health::Ok && text.contains("  ssh   the first rule"), "{text}");
        }
        let (health, text) = shown("10.0.0.1:22", &[], None);
        assert!(health == Health::Degraded && text.contains("  no-ssh  "), "{text}");
    }

    #[test]
    fn a_name_is_allowed_if_one_of_its_addresses_is() {
        let (health, text) = shown("a.example:80", &[], None);
        assert!(health == Health::Ok && text.contains("see --resolve"), "{text}");
        let (health, text) = shown("a.example:80", &[], Some(&["127.0.0.1", "10.0.0.1"]));
        assert!(health == Health::Ok && text.contains("\n  127.0.0.1   deny     loopback"), "{text}");
        let (health, _) = shown("a.example:80", &[], Some(&["127.0.0.1", "::1"]));
        assert_eq!(health, Health::Degraded);
        let (health, _) = shown("localhost:80", &[], Some(&["10.0.0.1"]));
        assert_eq!(health, Health::Degraded, "a server denies the name");
    }
}
