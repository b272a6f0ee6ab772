//! The kube-apiserver's `EgressSelectorConfiguration`, read as Kubernetes reads it
//! (`k8s.io/apiserver/pkg/server/egressselector/config.go`).
//!
//! Kubernetes 1.32 and newer decode strictly; older versions ignore unknown fields, the case of
//! fields and the `apiVersion`. Faults say which versions refuse them.

use std::path::PathBuf;

use serde_json::{Map, Value};

/// The file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct EgressFile {
    pub(crate) path: PathBuf,
    /// The content, or the reason why it is none.
    pub(crate) content: Result<Egress, String>,
}

/// The content of the file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Egress {
    /// Each name in lower case, with its route.
    pub(crate) selections: Vec<(String, Route)>,
    pub(crate) faults: Vec<Fault>,
}

/// The way of a selection's connections.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    Direct,
    Grpc(PathBuf),
    Connect(PathBuf),
    ConnectTls(Tls),
}

/// A frontend on TCP.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Tls {
    /// host:port.
    pub(crate) address: String,
    pub(crate) ca: PathBuf,
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// A fault, and the versions of Kubernetes that refuse it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fault {
    pub(crate) text: String,
    pub(crate) refused: Refused,
}

/// Versions of Kubernetes that refuse a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    ByAll,
    /// From 1.x on.
    From(u32),
    /// Before 1.x.
    Before(u32),
}

impl Refused {
    /// Whether a version, 1.`minor`, refuses it; `None` if the version decides and is unknown.
    pub(crate) fn by(self, minor: Option<u32>) -> Option<bool> {
        match self {
            Self::ByAll => Some(true),
            Self::From(first) => minor.map(|minor| minor >= first),
            Self::Before(first) => minor.map(|minor| minor < first),
        }
    }
}

/// The first minor version that decodes strictly.
const STRICT: u32 = 32;

/// The first minor version with `tlsServerName`.
const SERVER_NAME: u32 = 36;

impl Egress {
    /// # Errors
    /// When the text is no YAML mapping.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let value: Value = serde_saphyr::from_str(text).map_err(|error| first_line(&error.to_string()))?;
        let Value::Object(file) = value else { return Err("the file is no mapping".to_owned()) };
        let mut reader = Reader(Self::default());
        reader.file(&file);
        Ok(reader.0)
    }

    /// The route of a name; `None` if the file does not name it.
    pub(crate) fn route(&self, name: &str) -> Option<&Route> {
        self.selections.iter().find(|(known, _)| known == name).map(|(_, route)| route)
    }
}

impl Route {
    pub(crate) fn label(&self) -> String {
        match self {
            Self::Direct => "direct".to_owned(),
            Self::Grpc(socket) => format!("tunnel (GRPC on {})", socket.display()),
            Self::Connect(socket) => format!("tunnel (HTTPConnect on {})", socket.display()),
            Self::ConnectTls(tls) => format!("tunnel (HTTPConnect to {})", tls.address),
        }
    }
}

/// Errors of the YAML library have a picture of the place below the first line.
fn first_line(text: &str) -> String {
    let mut lines = text.lines().filter(|line| !line.trim().is_empty());
    lines.next().unwrap_or_default().trim().to_owned()
}

struct Reader(Egress);

impl Reader {
    fn fault(&mut self, refused: Refused, text: impl Into<String>) {
        self.0.faults.push(Fault { text: text.into(), refused });
    }

    /// The values of known fields, in their order. Older versions ignore the case of a field.
    fn fields<'a, const N: usize>(
        &mut self,
        at: &str,
        map: &'a Map<String, Value>,
        known: [&str; N],
    ) -> [Option<&'a Value>; N] {
        let mut values = [None; N];
        for (key, value) in map {
            match known.iter().position(|name| name.eq_ignore_ascii_case(key)) {
                Some(field) => {
                    if key != known[field] {
                        let text = format!("{at}: field {key:?} must be written {:?}", known[field]);
                        self.fault(Refused::From(STRICT), text);
                    }
                    values[field] = Some(value).filter(|value| !value.is_null());
                }
                None => self.fault(Refused::From(STRICT), format!("{at}: unknown field {key:?}")),
            }
        }
        values
    }

    fn file(&mut self, file: &Map<String, Value>) {
        let [version, kind, selections] =
            self.fields("the file", file, ["apiVersion", "kind", "egressSelections"]);
        if text(kind) != "EgressSelectorConfiguration" {
            self.fault(Refused::ByAll, "kind must be EgressSelectorConfiguration");
        }
        let known = ["apiserver.k8s.io/v1beta1", "apiserver.k8s.io/v1alpha1"];
        if !known.contains(&text(version)) {
            let text = format!("apiVersion {:?} must be {}", text(version), known[0]);
            self.fault(Refused::From(STRICT), text);
        }
        let Some(Value::Array(selections)) = selections else {
            return self.fault(Refused::ByAll, "egressSelections must be a list");
        };
        for selection in selections {
            match selection {
                Value::Object(selection) => self.selection(selection),
                Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
                    self.fault(Refused::ByAll, "each of egressSelections must be a mapping");
                }
            }
        }
    }

    fn selection(&mut self, selection: &Map<String, Value>) {
        let [name, connection] = self.fields("egressSelections", selection, ["name", "connection"]);
        let name = text(name).to_ascii_lowercase();
        match name.as_str() {
            "cluster" | "controlplane" | "etcd" => {}
            "master" => self.fault(Refused::From(23), "name master is called controlplane"),
            _ => self.fault(
                Refused::ByAll,
                format!("name {name:?} is unknown; use cluster, controlplane or etcd"),
            ),
        }
        if self.0.route(&name).is_some() {
            self.fault(Refused::From(23), format!("{name} is named twice"));
        }
        let Some(Value::Object(connection)) = connection else {
            return self.fault(Refused::ByAll, format!("{name}: connection is missing"));
        };
        if let Some(route) = self.connection(&name, connection) {
            self.0.selections.push((name, route));
        }
    }

    fn connection(&mut self, name: &str, connection: &Map<String, Value>) -> Option<Route> {
        let [protocol, transport] = self.fields(name, connection, ["proxyProtocol", "transport"]);
        let (protocol, mut tcp, mut uds) = (text(protocol), None, None);
        if let Some(Value::Object(transport)) = transport {
            [tcp, uds] = self.fields(name, transport, ["tcp", "uds"]);
        }
        match (protocol, tcp, uds) {
            ("Direct", ..) => {
                if transport.is_some() {
                    self.fault(Refused::ByAll, format!("{name}: Direct must have no transport"));
                }
                Some(Route::Direct)
            }
            ("GRPC", _, Some(Value::Object(uds))) => self.socket(name, uds).map(Route::Grpc),
            ("GRPC", ..) => {
                self.fault(
                    Refused::ByAll,
                    format!("{name}: GRPC needs transport.uds; it does not work on TCP"),
                );
                None
            }
            ("HTTPConnect", None, Some(Value::Object(uds))) => self.socket(name, uds).map(Route::Connect),
            ("HTTPConnect", Some(Value::Object(tcp)), None) => self.tcp(name, tcp).map(Route::ConnectTls),
            ("HTTPConnect", ..) => {
                let text = format!("{name}: HTTPConnect needs one of transport.uds and transport.tcp");
                self.fault(Refused::ByAll, text);
                None
            }
            (other, ..) => {
                let text = format!("{name}: proxyProtocol {other:?} must be GRPC, HTTPConnect or Direct");
                self.fault(Refused::ByAll, text);
                None
            }
        }
    }

    fn socket(&mut self, name: &str, uds: &Map<String, Value>) -> Option<PathBuf> {
        let [path] = self.fields(name, uds, ["udsName"]);
        let path = text(path);
        if !path.starts_with('/') {
            let text = format!("{name}: udsName {path:?} must be an absolute path, without unix://");
            self.fault(Refused::ByAll, text);
        }
        (!path.is_empty()).then(|| path.into())
    }

    fn tcp(&mut self, name: &str, tcp: &Map<String, Value>) -> Option<Tls> {
        let [url, tls] = self.fields(name, tcp, ["url", "tlsConfig"]);
        let Some(address) = text(url).strip_prefix("https://") else {
            // With http:// the file is valid, and the kube-apiserver panics at its start.
            self.fault(Refused::ByAll, format!("{name}: url {:?} must begin with https://", text(url)));
            return None;
        };
        let Some(Value::Object(tls)) = tls else {
            self.fault(Refused::ByAll, format!("{name}: https needs tlsConfig"));
            return None;
        };
        let fields = ["caBundle", "clientCert", "clientKey", "tlsServerName"];
        let [ca, cert, key, server_name] = self.fields(name, tls, fields);
        if text(cert).is_empty() || text(key).is_empty() {
            self.fault(Refused::ByAll, format!("{name}: tlsConfig needs clientCert and clientKey"));
        }
        if server_name.is_some() {
            let text = format!("{name}: tlsServerName is new in Kubernetes 1.{SERVER_NAME}");
            self.fault(Refused::Before(SERVER_NAME), text);
        }
        let address = address.split('/').next().unwrap_or_default().to_owned();
        Some(Tls { address, ca: text(ca).into(), cert: text(cert).into(), key: text(key).into() })
    }
}

fn text(value: Option<&Value>) -> &str {
    value.and_then(Value::as_str).unwrap_or_default()
}
