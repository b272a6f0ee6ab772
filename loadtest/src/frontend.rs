//! The frontend that is dialled.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Args, ValueEnum};
use tunnel_client::{Endpoint, Options, Protocol, tls_config};

/// The name in certificates, by default.
pub(crate) const LOCALHOST: &str = "localhost";

/// A frontend, and its name in the figures.
#[derive(Debug, Clone)]
pub(crate) struct Frontend {
    pub(crate) name: &'static str,
    pub(crate) protocol: Protocol,
    pub(crate) endpoint: Endpoint,
    pub(crate) options: Options,
    /// The flags that lead another process of this program to it.
    pub(crate) flags: Vec<String>,
}

#[derive(Debug, Clone, Args)]
#[group(skip)]
pub(crate) struct FrontendArgs {
    #[command(flatten)]
    pub(crate) place: Place,
    /// CA certificates of the frontend, PEM; for TCP.
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,
    /// Client certificate, PEM; for TCP.
    #[arg(long, value_name = "FILE")]
    pub(crate) cert: Option<PathBuf>,
    /// Key of the client certificate, PEM; for TCP.
    #[arg(long, value_name = "FILE")]
    pub(crate) key: Option<PathBuf>,
    /// Name that the frontend's certificate must have; for TCP.
    #[arg(long, value_name = "NAME", default_value = LOCALHOST)]
    pub(crate) server_name: String,
}

#[derive(Debug, Clone, Default, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Place {
    /// HTTP CONNECT on this Unix socket.
    #[arg(long, value_name = "PATH")]
    pub(crate) connect_uds: Option<PathBuf>,
    /// gRPC on this Unix socket.
    #[arg(long, value_name = "PATH")]
    pub(crate) grpc_uds: Option<PathBuf>,
    /// HTTP CONNECT on this address, with TLS.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) connect_tcp: Option<SocketAddr>,
    /// gRPC on this address, with TLS.
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) grpc_tcp: Option<SocketAddr>,
}

/// A kind of frontend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum FrontendName {
    ConnectUds,
    GrpcUds,
    ConnectTcp,
    GrpcTcp,
}

impl FrontendName {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::ConnectUds => "connect-uds",
            Self::GrpcUds => "grpc-uds",
            Self::ConnectTcp => "connect-tcp",
            Self::GrpcTcp => "grpc-tcp",
        }
    }

    /// This kind, with its socket or its address.
    pub(crate) fn at(self, uds: PathBuf, address: SocketAddr) -> Place {
        match self {
            Self::ConnectUds => Place { connect_uds: Some(uds), ..Place::default() },
            Self::GrpcUds => Place { grpc_uds: Some(uds), ..Place::default() },
            Self::ConnectTcp => Place { connect_tcp: Some(address), ..Place::default() },
            Self::GrpcTcp => Place { grpc_tcp: Some(address), ..Place::default() },
        }
    }

    fn protocol(self) -> Protocol {
        match self {
            Self::ConnectUds | Self::ConnectTcp => Protocol::Connect,
            Self::GrpcUds | Self::GrpcTcp => Protocol::Grpc,
        }
    }
}

impl FrontendArgs {
    /// A frontend on a Unix socket.
    pub(crate) fn unix(protocol: Protocol, path: &Path) -> Self {
        let path = Some(path.to_owned());
        let place = match protocol {
            Protocol::Connect => Place { connect_uds: path, ..Place::default() },
            Protocol::Grpc => Place { grpc_uds: path, ..Place::default() },
        };
        Self { place, ca: None, cert: None, key: None, server_name: LOCALHOST.into() }
    }

    /// The frontend of these flags.
    ///
    /// # Errors
    /// When no frontend is given, or the certificates of one on TCP are missing or bad.
    pub(crate) fn resolve(&self) -> anyhow::Result<Frontend> {
        let Place { connect_uds, grpc_uds, connect_tcp, grpc_tcp } = &self.place;
        let unix = |path: &PathBuf| Ok(Endpoint::unix(path.clone()));
        let (kind, endpoint) = match (connect_uds, grpc_uds, connect_tcp, grpc_tcp) {
            (Some(path), _, _, _) => (FrontendName::ConnectUds, unix(path)),
            (_, Some(path), _, _) => (FrontendName::GrpcUds, unix(path)),
            (_, _, Some(address), _) => (FrontendName::ConnectTcp, self.tls(*address)),
            (_, _, _, Some(address)) => (FrontendName::GrpcTcp, self.tls(*address)),
            (None, None, None, None) => anyhow::bail!("no frontend is given"),
        };
        Ok(Frontend {
            name: kind.name(),
            protocol: kind.protocol(),
            endpoint: endpoint?,
            options: Options::default(),
            flags: self.flags(),
        })
    }

    fn flags(&self) -> Vec<String> {
        let Place { connect_uds, grpc_uds, connect_tcp, grpc_tcp } = &self.place;
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let address = |address: &Option<SocketAddr>| address.map(|address| address.to_string());
        let flags = [
            ("connect-uds", path(connect_uds)),
            ("grpc-uds", path(grpc_uds)),
            ("connect-tcp", address(connect_tcp)),
            ("grpc-tcp", address(grpc_tcp)),
            ("ca", path(&self.ca)),
            ("cert", path(&self.cert)),
            ("key", path(&self.key)),
            ("server-name", Some(self.server_name.clone())),
        ];
        flags.into_iter().filter_map(|(name, value)| Some(format!("--{name}={}", value?))).collect()
    }

    fn tls(&self, address: SocketAddr) -> anyhow::Result<Endpoint> {
        let ca = self.ca.as_ref().context("TCP needs --ca")?;
        let cert = self.cert.as_ref().context("TCP needs --cert")?;
        let key = self.key.as_ref().context("TCP needs --key")?;
        let name = self.server_name.clone().try_into().context("--server-name")?;
        Ok(Endpoint::tls(address, name, tls_config(ca, cert, key)?))
    }
}
