//! The decision about a destination: without a file, with the chart's, and with as many rules as a
//! file may have.

use std::hint::black_box;
use std::net::IpAddr;

use tunnel_policy::{Policy, Subject};
use tunnel_proto::target::Target;

/// Most rules of a file.
const RULES: usize = 10_000;

/// The file that charts and the installer write.
const CHART: &str = include_str!("../../deploy/manifests/static-pod/policy.yaml");

/// Rules for clients, of which the last one applies.
const IDENTITIES: &str = "
default: deny
rules:
  - {name: tenants, action: deny, identities: ['cn:tenant-*', 'uid:2000']}
  - {name: masters, action: allow, identities: ['cn:admin', 'o:system:masters']}
";

/// Policies, and a target that each of them allows.
#[derive(Debug)]
pub struct Destinations {
    none: Policy,
    chart: Policy,
    full: Policy,
    identities: Policy,
    /// Further names of a client's certificate.
    also: [Box<str>; 2],
    kubelet: Target,
    name: Target,
    address: IpAddr,
}

impl Destinations {
    /// Reads the files.
    pub fn new() -> Self {
        let rule =
            |i: usize| format!("- {{name: r{i}, action: deny, to: [10.{}.{}.0/24]}}\n", i / 250, i % 250);
        let full: String = (0..RULES).map(rule).collect();
        Self {
            none: Policy::default(),
            chart: CHART.parse().unwrap(),
            identities: IDENTITIES.parse().unwrap(),
            also: ["dns:api.example", "o:system:masters"].map(Into::into),
            full: format!("default: allow\nrules:\n{full}").parse().unwrap(),
            kubelet: "192.168.1.7:10250".parse().unwrap(),
            name: "webhook.ns.svc:443".parse().unwrap(),
            address: "10.96.7.9".parse().unwrap(),
        }
    }

    /// Without a file: a few comparisons of the address.
    pub fn without_a_file(&mut self) {
        self.allowed(&self.none, &self.kubelet, None);
    }

    /// With the chart's file, on a server.
    pub fn of_the_chart(&mut self) {
        self.allowed(&self.chart, &self.kubelet, None);
    }

    /// With the chart's file, on an agent: a name, and one of its addresses.
    pub fn of_the_chart_with_name(&mut self) {
        self.allowed(&self.chart, &self.name, Some(self.address));
    }

    /// With a full file, of which no rule applies.
    pub fn of_all_rules(&mut self) {
        self.allowed(&self.full, &self.kubelet, None);
    }

    /// With a rule for the last of a client's names.
    pub fn of_identities(&mut self) {
        self.allowed(&self.identities, &self.kubelet, None);
    }

    fn allowed(&self, policy: &Policy, target: &Target, address: Option<IpAddr>) {
        let subject = Subject { identity: Some("cn:kube-apiserver"), also: &self.also };
        assert!(black_box(policy).decide(subject, black_box(target), black_box(address)).allow);
    }
}

impl Default for Destinations {
    fn default() -> Self {
        Self::new()
    }
}
