//! The health and metrics pages of servers and agents.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::within;

/// GETs a page of a health listener; the status and the body.
///
/// # Errors
/// When nothing answers there.
pub async fn get(addr: SocketAddr, path: &str) -> std::io::Result<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n");
    let answer = within("a page of the health listener", async {
        let mut stream = TcpStream::connect(addr).await?;
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        std::io::Result::Ok(answer)
    })
    .await?;
    let malformed = || std::io::Error::other(format!("malformed answer: {answer:?}"));
    let (head, body) = answer.split_once("\r\n\r\n").ok_or_else(malformed)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).ok_or_else(malformed)?;
    Ok((status, body.to_owned()))
}

/// All metrics at one moment.
#[derive(Debug, Clone, Default)]
pub struct Metrics(BTreeMap<String, f64>);

impl Metrics {
    /// Scrapes a health listener.
    ///
    /// # Errors
    /// When nothing answers there.
    pub async fn of(health: SocketAddr) -> std::io::Result<Self> {
        let (status, text) = get(health, "/metrics").await?;
        assert_eq!(status, 200, "{text}");
        Ok(Self::parse(&text))
    }

    /// Parses a scrape.
    pub fn parse(text: &str) -> Self {
        let samples = text.lines().filter(|line| !line.starts_with('#'));
        let samples = samples.filter_map(|line| line.rsplit_once(' '));
        Self(samples.map(|(name, value)| (name.to_owned(), value.parse().unwrap())).collect())
    }

    /// All samples of a metric, by their labels as they are written: `{a="b"}`,
    /// or nothing. None if it does not exist.
    pub fn samples(&self, name: &str) -> BTreeMap<String, i64> {
        let labels = |sample: &str| {
            let rest = sample.strip_prefix(name)?;
            (rest.is_empty() || rest.starts_with('{')).then(|| rest.to_owned())
        };
        self.0.iter().filter_map(|(sample, value)| Some((labels(sample)?, *value as i64))).collect()
    }

    /// A metric without labels; 0 if it does not exist.
    pub fn value(&self, name: &str) -> i64 {
        self.0.get(name).map_or(0, |value| *value as i64)
    }

    /// The sum of a metric over all samples which have all of `labels` (as
    /// `key="value"`). One that does not exist is 0.
    pub fn sum(&self, name: &str, labels: &[&str]) -> i64 {
        let chosen = self.0.iter().filter(|(sample, _)| {
            sample.split_once('{').is_some_and(|(of, _)| of == name)
                && labels.iter().all(|label| sample.contains(label))
        });
        chosen.map(|(_, value)| *value as i64).sum()
    }

    /// Lines of the metrics that begin with `prefix`, for messages.
    pub fn show(&self, prefix: &str) -> String {
        let shown = self
            .0
            .iter()
            .filter(|(name, value)| name.starts_with(prefix) && **value != 0.0 && !name.contains("_bucket{"));
        shown.map(|(name, value)| format!("{name} {value}")).collect::<Vec<_>>().join(", ")
    }
}
