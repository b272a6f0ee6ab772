//! Files that are read again while the program runs: certificates, keys, CAs, tokens, policy.
//!
//! A look takes the digest of a set's files, and applies the set if the digest has changed. A set is
//! applied as a whole or not at all: a certificate without its key, or half of a file, leaves the
//! previous state in use until a later look.

use std::fmt::Display;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use prometheus::{IntCounterVec, IntGaugeVec, Result};
use ring::digest::{Context, SHA256};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tracing::{error, info, warn};
use tunnel::drain::Drain;

use crate::metering::Maker;

/// Time between two looks at a set of files. A kubelet renews a projected token with a fifth of its
/// life left, two minutes for the shortest. Longer, and a withdrawn CA is trusted for longer; shorter
/// costs reads and finds nothing.
pub const PERIOD: Duration = Duration::from_secs(10);

/// Largest file, in bytes. Certificate revocation lists are the largest of them, a few megabytes; a
/// larger file is a mistake that would fill the memory.
const MAX_FILE: u64 = 16 << 20;

/// The digest of a set's files, or the reason why one cannot be read.
type Digest = std::result::Result<Vec<u8>, String>;

/// The metrics of renewals, by the name of a set.
#[derive(Debug, Clone)]
pub struct RenewalMetrics {
    renewals: IntCounterVec,
    stale: IntGaugeVec,
    expires: IntGaugeVec,
}

impl RenewalMetrics {
    /// Makes the metrics.
    ///
    /// # Errors
    /// When metrics of these names exist.
    pub fn make(make: &mut Maker<'_>) -> Result<Self> {
        Ok(Self {
            renewals: make.counters(
                "file_renewals_total",
                "Changed files that were read again, by file and result (applied or refused).",
                &["file", "result"],
            )?,
            stale: make.gauges(
                "file_stale",
                "1 while the files on disk cannot be used and those read before are still in use, by file.",
                &["file"],
            )?,
            expires: make.gauges(
                "certificate_expiration_timestamp_seconds",
                "When the first certificate in use of a file expires, or the token, in seconds since 1970, by file.",
                &["file"],
            )?,
        })
    }
}

/// Looks at sets of files until the program ends.
#[derive(Debug, Clone)]
pub struct Renewal {
    period: Duration,
    metrics: RenewalMetrics,
    drain: Drain,
    asked: watch::Sender<()>,
}

impl Renewal {
    /// Looks once in a `period`, which is [`PERIOD`] but in tests.
    pub fn new(period: Duration, metrics: RenewalMetrics, drain: Drain) -> Self {
        Self { period, metrics, drain, asked: watch::Sender::new(()) }
    }

    /// The drain whose end is the end of all looks.
    pub const fn drain(&self) -> &Drain {
        &self.drain
    }

    /// Looks at all files now, as SIGHUP asks.
    pub fn look(&self) {
        self.asked.send_replace(());
    }

    /// Sets the moment at which what a file holds expires, in seconds since 1970; `None` is never.
    pub fn expires(&self, name: &'static str, at: Option<i64>) {
        match at {
            Some(at) => self.metrics.expires.with_label_values(&[name]).set(at),
            // Fails if there was none.
            None => drop(self.metrics.expires.remove_label_values(&[name])),
        }
    }

    /// Follows a set of files, named by its flag without dashes. `apply` reads the files and puts
    /// them in use; if it fails, it has changed nothing. It runs on a thread for blocking work, once
    /// at the start, because the files may have changed since the configuration was read, and then
    /// within a period of each change. Needs a runtime.
    pub fn follow<E: Display>(
        &self,
        name: &'static str,
        paths: Vec<PathBuf>,
        apply: impl FnMut() -> std::result::Result<(), E> + Send + 'static,
    ) {
        if paths.is_empty() {
            return;
        }
        let set = Set { name, paths, apply, seen: None, first: true, metrics: self.metrics.clone() };
        self.metrics.stale.with_label_values(&[name]).set(0);
        for result in ["applied", "refused"] {
            self.metrics.renewals.with_label_values(&[name, result]);
        }
        let (period, mut asked, drain) = (self.period, self.asked.subscribe(), self.drain.clone());
        self.drain.spawn("renewal", async move {
            let mut set = set;
            let mut ticks = interval_at(Instant::now(), period);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            let killed = drain.killed();
            tokio::pin!(killed);
            loop {
                tokio::select! {
                    () = &mut killed => return,
                    _ = ticks.tick() => {}
                    // Fails once every sender is gone: the tick goes on.
                    Ok(()) = asked.changed() => {}
                }
                let looked = tokio::task::spawn_blocking(move || {
                    set.look();
                    set
                });
                match looked.await {
                    Ok(back) => set = back,
                    Err(error) => {
                        error!(%error, "--{name} is not read again until the program restarts");
                        return;
                    }
                }
            }
        });
    }
}

/// A set of files, and its state.
struct Set<F> {
    name: &'static str,
    paths: Vec<PathBuf>,
    apply: F,
    /// The digest at the last look; `None` if the files changed while they were applied.
    seen: Option<Digest>,
    /// Whether nothing was applied yet.
    first: bool,
    metrics: RenewalMetrics,
}

impl<F, E> Set<F>
where
    F: FnMut() -> std::result::Result<(), E>,
    E: Display,
{
    fn look(&mut self) {
        let digest = digest(&self.paths);
        if self.seen.as_ref() == Some(&digest) {
            return;
        }
        let first = std::mem::take(&mut self.first);
        let applied = match &digest {
            Ok(_) => (self.apply)().map_err(|error| error.to_string()),
            Err(error) => Err(error.clone()),
        };
        // Other content may have been applied than was digested.
        self.seen = (self::digest(&self.paths) == digest).then_some(digest);
        let name = self.name;
        let result = if applied.is_ok() { "applied" } else { "refused" };
        self.metrics.stale.with_label_values(&[name]).set(applied.is_err().into());
        match applied {
            Ok(()) if first => return,
            Ok(()) => info!(file = name, "--{name} was renewed and is in use"),
            Err(error) => {
                warn!(file = name, error, "--{name} cannot be renewed: the one read before stays in use");
            }
        }
        self.metrics.renewals.with_label_values(&[name, result]).inc();
    }
}

/// The digest of files' contents.
///
/// # Errors
/// When a file cannot be read; the text names it.
fn digest(paths: &[PathBuf]) -> Digest {
    let mut context = Context::new(&SHA256);
    for path in paths {
        let content = read(path).map_err(|error| format!("{}: {error}", path.display()))?;
        context.update(&(content.len() as u64).to_be_bytes());
        context.update(&content);
    }
    Ok(context.finish().as_ref().to_vec())
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut content = Vec::new();
    File::open(path)?.take(MAX_FILE + 1).read_to_end(&mut content)?;
    if content.len() as u64 > MAX_FILE {
        return Err(io::Error::other(format!("longer than {MAX_FILE} bytes")));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::sync::{Arc, Mutex};

    use super::*;
    use prometheus::Registry;

    /// A set of one file whose content is a number, and the numbers that were applied.
    struct Followed {
        set: Set<Box<dyn FnMut() -> std::result::Result<(), String>>>,
        path: PathBuf,
        applied: Arc<Mutex<Vec<u32>>>,
        _directory: tempfile::TempDir,
    }

    impl Followed {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let path = directory.path().join("number");
            fs::write(&path, "1").unwrap();
            let applied = Arc::new(Mutex::new(Vec::new()));
            let (numbers, file) = (Arc::clone(&applied), path.clone());
            let apply = move || {
                let text = fs::read_to_string(&file).map_err(|error| error.to_string())?;
                numbers.lock().unwrap().push(text.parse().map_err(|_| format!("{text:?} is no number"))?);
                Ok(())
            };
            let registry = Registry::new();
            let metrics = RenewalMetrics::make(&mut Maker::new(&registry, "test")).unwrap();
            let paths = vec![path.clone()];
            let set =
                Set { name: "number", paths, apply: Box::new(apply) as _, seen: None, first: true, metrics };
            Self { set, path, applied, _directory: directory }
        }

        /// Looks; the numbers applied, whether the file is stale, and how often it was applied and refused.
        fn look(&mut self) -> (Vec<u32>, bool, u64, u64) {
            self.set.look();
            let RenewalMetrics { renewals, stale, .. } = &self.set.metrics;
            let count = |result| renewals.with_label_values(&["number", result]).get();
            let stale = stale.with_label_values(&["number"]).get() == 1;
            (self.applied.lock().unwrap().clone(), stale, count("applied"), count("refused"))
        }
    }

    #[test]
    fn a_changed_file_is_applied_once() {
        let mut followed = Followed::new();
        assert_eq!(followed.look(), (vec![1], false, 0, 0), "the first look is no renewal");
        assert_eq!(followed.look(), (vec![1], false, 0, 0));
        fs::write(&followed.path, "2").unwrap();
        assert_eq!(followed.look(), (vec![1, 2], false, 1, 0));
        assert_eq!(followed.look(), (vec![1, 2], false, 1, 0));
    }

    #[test]
    fn a_bad_file_is_refused_once_and_the_next_good_one_applied() {
        let mut followed = Followed::new();
        followed.look();
        fs::write(&followed.path, "garbage").unwrap();
        assert_eq!(followed.look(), (vec![1], true, 0, 1));
        assert_eq!(followed.look(), (vec![1], true, 0, 1));
        fs::remove_file(&followed.path).unwrap();
        assert_eq!(followed.look(), (vec![1], true, 0, 2));
        fs::write(&followed.path, "1").unwrap();
        assert_eq!(followed.look(), (vec![1, 1], false, 1, 2));
    }

    #[test]
    fn a_file_that_is_too_long_is_refused() {
        let mut followed = Followed::new();
        File::create(&followed.path).unwrap().set_len(MAX_FILE + 1).unwrap();
        followed.set.look();
        let seen = followed.set.seen.clone().unwrap().unwrap_err();
        assert!(seen.contains("number: longer than 16777216 bytes"), "{seen}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_look_follows_a_request_at_once_and_ends_with_the_drain() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, "1").unwrap();
        let registry = Registry::new();
        let metrics = RenewalMetrics::make(&mut Maker::new(&registry, "test")).unwrap();
        let drain = Drain::new();
        let renewal = Renewal::new(Duration::from_secs(86_400), metrics, drain.clone());
        let (applied, mut looks) = watch::channel(0);
        renewal.follow("file", vec![path.clone()], move || {
            applied.send_modify(|count| *count += 1);
            Ok::<_, String>(())
        });
        looks.wait_for(|count| *count == 1).await.unwrap();
        fs::write(&path, "2").unwrap();
        renewal.look();
        looks.wait_for(|count| *count == 2).await.unwrap();
        drain.finish().await;
        assert!(looks.changed().await.is_err(), "the task has ended");
    }
}
