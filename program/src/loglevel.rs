//! The level of the log, changed while the program runs, for a while.
//!
//! There is one log in a process, so there is one [`Levels`]. A change costs disabled lines nothing: the
//! highest level that is on stays in a static, which each line compares first.

use std::fmt;
use std::sync::OnceLock;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tracing::level_filters::LevelFilter;
use tracing::{Level, enabled, info};
use tracing_subscriber::{EnvFilter, reload};

/// Longest time of a change. A log that stays at DEBUG fills a disk.
pub const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The client library of the Kubernetes API logs every failed request as an error;
/// the callers of requests log failures themselves, at the level that fits.
const TOO_LOUD: &str = "kube_client=off";

static LEVELS: OnceLock<Levels> = OnceLock::new();

/// Replaces the filter of the log.
type Apply = Box<dyn Fn(EnvFilter) -> Result<(), reload::Error> + Send + Sync>;

/// The filter of the log.
pub struct Levels {
    /// The filter of the flags.
    flags: String,
    apply: Apply,
    changed: watch::Sender<Option<Changed>>,
}

/// A filter in place of the flags'.
#[derive(Debug, Clone)]
struct Changed {
    filter: String,
    until: Instant,
}

/// The filter of the log at a moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Current {
    /// The filter that holds.
    pub filter: String,
    /// The filter of the flags.
    pub flags: String,
    /// The time until the flags' filter holds again, if another one does.
    pub left: Option<Duration>,
}

/// Why the level was not changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LevelError {
    /// A part of the filter is no directive.
    #[error(
        "{0:?} is no level: use error, warn, info, debug, trace or off, or several of TARGET=LEVEL, such as \
         info,tunnel=debug"
    )]
    NoLevel(String),
    /// The filter is malformed.
    #[error("{filter:?} is no filter: {why}")]
    Malformed {
        /// The filter.
        filter: String,
        /// The fault.
        why: String,
    },
    /// The time is 0 or too long.
    #[error("a level is changed for at least a second and at most 24h, not for {0:?}")]
    Time(Duration),
    /// The log is gone.
    #[error("the log takes no other level: {0}")]
    Log(String),
}

/// The levels of this process's log; `None` before the log has started.
pub fn levels() -> Option<&'static Levels> {
    LEVELS.get()
}

/// The filter of a text, with the exceptions that always hold.
///
/// # Errors
/// When the text is malformed.
pub(crate) fn filter(text: &str) -> Result<EnvFilter, String> {
    EnvFilter::try_new(format!("{TOO_LOUD},{text}")).map_err(|error| error.to_string())
}

/// Keeps the handle of the log of this process, which began with the flags' filter.
pub(crate) fn install<S: 'static>(flags: &str, handle: reload::Handle<EnvFilter, S>) {
    // The log of a process starts once.
    let _ = LEVELS.set(Levels::new(flags, handle));
}

impl Levels {
    fn new<S: 'static>(flags: &str, handle: reload::Handle<EnvFilter, S>) -> Self {
        Self {
            flags: flags.to_owned(),
            apply: Box::new(move |filter| handle.reload(filter)),
            changed: watch::Sender::new(None),
        }
    }

    /// The filter at this moment.
    pub fn current(&self) -> Current {
        let changed = self.changed.borrow().clone();
        Current {
            filter: changed.as_ref().map_or_else(|| self.flags.clone(), |changed| changed.filter.clone()),
            flags: self.flags.clone(),
            left: changed.map(|changed| changed.until.saturating_duration_since(Instant::now())),
        }
    }

    /// Changes the filter for a time, for which [`Levels::keep`] has to run.
    ///
    /// # Errors
    /// When the filter or the time is no good; nothing has changed.
    pub fn change(&self, text: &str, time: Duration) -> Result<(), LevelError> {
        if !(Duration::from_secs(1)..=LONGEST).contains(&time) {
            return Err(LevelError::Time(time));
        }
        check(text)?;
        let parsed = filter(text).map_err(|why| LevelError::Malformed { filter: text.to_owned(), why })?;
        let changed = Changed { filter: text.to_owned(), until: Instant::now() + time };
        let tell =
            || info!(filter = text, seconds = time.as_secs(), "the level of the log is another for a while");
        self.replace(parsed, Some(changed), tell, |_| true)
    }

    /// Goes back to the filter of the flags, if another one holds.
    ///
    /// # Errors
    /// When the log is gone.
    pub fn restore(&self) -> Result<(), LevelError> {
        self.end(|_| true)
    }

    fn end(&self, is_over: impl FnOnce(&Changed) -> bool) -> Result<(), LevelError> {
        let flags = self.flags.as_str();
        let parsed = filter(flags).map_err(|why| LevelError::Malformed { filter: flags.to_owned(), why })?;
        let tell = || info!(filter = flags, "the level of the log is that of the flags again");
        self.replace(parsed, None, tell, |current| current.is_some_and(is_over))
    }

    /// Ends each change in time. Several programs of one process may each do so. Cancel safe.
    pub async fn keep(&self) {
        let mut news = self.changed.subscribe();
        loop {
            let until = news.borrow_and_update().as_ref().map(|changed| changed.until);
            let over = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // Fails once every sender is gone, and this is one.
                _ = news.changed() => {}
                () = over => {
                    // If the log is gone, nobody can be told.
                    let _ = self.end(|changed| changed.until <= Instant::now());
                }
            }
        }
    }

    /// Replaces the filter if the present state is `fit`. Tells of it while the log still takes the line,
    /// or as soon as it does.
    fn replace(
        &self,
        to: EnvFilter,
        changed: Option<Changed>,
        tell: impl Fn(),
        fit: impl FnOnce(Option<&Changed>) -> bool,
    ) -> Result<(), LevelError> {
        let mut result = Ok(());
        self.changed.send_if_modified(|current| {
            if !fit(current.as_ref()) {
                return false;
            }
            let told = enabled!(Level::INFO);
            if told {
                tell();
            }
            result = (self.apply)(to).map_err(|error| LevelError::Log(error.to_string()));
            if result.is_err() {
                return false;
            }
            if !told {
                tell();
            }
            *current = changed;
            true
        });
        result
    }
}

impl fmt::Debug for Levels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Levels").field("current", &self.current()).finish_non_exhaustive()
    }
}

/// Refuses words that are no levels, which a filter takes for targets at TRACE.
fn check(filter: &str) -> Result<(), LevelError> {
    let is_directive = |part: &str| part.contains(['=', '[']) || part.parse::<LevelFilter>().is_ok();
    match filter.split(',').find(|part| part.trim() != *part || part.is_empty() || !is_directive(part)) {
        // Fields of spans are separated by commas as well.
        Some(part) if !filter.contains('[') => Err(LevelError::NoLevel(part.to_owned())),
        Some(_) | None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use tracing::{Dispatch, debug, dispatcher};

    use super::*;

    /// The highest level that is on is one for all logs of a process, so one test at a time has a log.
    static ONE: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

    /// A log of `info` that writes nothing, and its levels.
    fn log() -> (Dispatch, Levels) {
        let builder =
            tracing_subscriber::fmt().with_writer(std::io::sink).with_env_filter(filter("info").unwrap());
        let builder = builder.with_filter_reloading();
        let handle = builder.reload_handle();
        (Dispatch::new(builder.finish()), Levels::new("info", handle))
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_ends_by_itself_and_a_later_one_replaces_it() {
        let _one = ONE.lock().await;
        let (dispatch, levels) = log();
        let _log = dispatcher::set_default(&dispatch);
        let is_on = || (enabled!(Level::DEBUG), levels.current().filter, levels.current().left);
        let minutes = |n: u64| Duration::from_secs(60 * n);
        let mut keep = std::pin::pin!(levels.keep());
        let mut pass = async |time| assert!(tokio::time::timeout(time, &mut keep).await.is_err());
        pass(minutes(1)).await;
        assert_eq!(is_on(), (false, "info".to_owned(), None));
        levels.change("debug", minutes(10)).unwrap();
        assert_eq!(is_on(), (true, "debug".to_owned(), Some(minutes(10))));
        pass(minutes(9)).await;
        levels.change("warn,tunnel_program=debug", minutes(5)).unwrap();
        pass(minutes(4)).await;
        assert!(is_on().0);
        pass(minutes(2)).await;
        assert_eq!(is_on(), (false, "info".to_owned(), None));
        levels.change("trace", minutes(1)).unwrap();
        levels.restore().unwrap();
        assert_eq!(is_on(), (false, "info".to_owned(), None));
    }

    #[tokio::test]
    async fn the_highest_level_that_is_on_is_known_without_the_filter() {
        let _one = ONE.lock().await;
        let (dispatch, levels) = log();
        let _log = dispatcher::set_default(&dispatch);
        assert_eq!(LevelFilter::current(), LevelFilter::INFO);
        levels.change("debug", LONGEST).unwrap();
        debug!("a line");
        assert_eq!(LevelFilter::current(), LevelFilter::DEBUG);
        levels.restore().unwrap();
        assert_eq!(LevelFilter::current(), LevelFilter::INFO);
    }

    #[tokio::test]
    async fn what_is_no_filter_is_refused_and_changes_nothing() {
        let _one = ONE.lock().await;
        let (_dispatch, levels) = log();
        let hour = Duration::from_secs(3600);
        for text in ["", "debgu", "info,", "info, debug", "tunnel", "info,tunnel=loud", "5x"] {
            let error = levels.change(text, hour).unwrap_err();
            assert!(error.to_string().contains("is no "), "{text}: {error}");
        }
        for time in [Duration::ZERO, LONGEST + Duration::from_secs(1)] {
            assert_eq!(levels.change("debug", time), Err(LevelError::Time(time)));
        }
        assert_eq!(levels.current().left, None);
        for text in ["debug", "info,access=off", "DEBUG", "off", "info,tunnel_server[client{id=1}]=trace"] {
            levels.change(text, hour).unwrap();
        }
    }
}
